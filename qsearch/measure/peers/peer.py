"""What every peer offers: the same network in another runtime, as a function of an image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.measure.peers.steps import Step, steps_of
from qsearch.models import LoadedModel, to_input
from qsearch.passes import prepare

Run = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Upscale one uint8 image [H, W, 3]."""
CROP = 96


@dataclass(frozen=True)
class Subject:
    """The network that the peers run, on images of `size` = (height, width)."""

    model: LoadedModel
    images: Sequence[NDArray[np.uint8]]
    """Low-resolution calibration images, the same for every peer and for us."""
    size: tuple[int, int]
    litert_model: Path | None = None
    """A .tflite file of the same network that LiteRT runs instead of one that is made here."""

    @cached_property
    def steps(self) -> list[Step]:
        """The float network as a list of operators."""
        return steps_of(prepare(self.model.module))

    @property
    def crops(self) -> list[NDArray[np.uint8]]:
        """The middle of every calibration image."""
        found = []
        for image in self.images:
            top, left = (max(0, (side - CROP) // 2) for side in image.shape[:2])
            found.append(np.ascontiguousarray(image[top : top + CROP, left : left + CROP]))
        return found

    @property
    def inputs(self) -> list[torch.Tensor]:
        """The crops as float tensors [1, 3, H, W] in 0…white."""
        return [to_input(crop, self.model.white) for crop in self.crops]


@dataclass(frozen=True)
class Peer:
    """One runtime. `open` quantizes the subject as that runtime's users would and gives a function of an image."""

    name: str
    title: str
    """With its number format, as in `OpenVINO INT8`."""
    distribution: str
    """The Python package whose version is recorded."""
    open: Callable[[Subject, int], Run]
    """(subject, threads); raises `ImportError` where the toolkit is missing, `QsearchError` for what it cannot do."""


def missing(peer: Peer, error: ImportError) -> QsearchError:
    """The one line about a toolkit that is not installed."""
    return QsearchError(
        f"peer {peer.name} is not installed ({error.name or error}): pip install 'qsearch[peers]', "
        f"or leave {peer.name} out of --against"
    )
