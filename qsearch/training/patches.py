"""The training images in memory, and random patches of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsearch.ensemble import TURNS, turned
from qsearch.errors import QsearchError
from qsearch.images import iterate_pairs
from qsearch.training.settings import TrainingSettings


class Patches:
    """Random patches of the original images in `folders`; the images stay in memory as uint8, with their bicubic LR.

    Stored LR files (see `qsearch.images.read_pairs`) are taken as they are. Images with a side below `patch`
    low-resolution pixels are skipped; raises `QsearchError` when none is left, and for an LR file that does not fit.
    """

    def __init__(
        self, folders: Sequence[Path | str], *, upscale: int, white: float, patch: int, batch: int, seed: int
    ) -> None:
        self.upscale, self.white, self.patch, self.batch, self.seed = upscale, white, patch, batch, seed
        self.names = [Path(folder).name for folder in folders]
        self.lr: list[NDArray[np.uint8]] = []
        self.hr: list[NDArray[np.uint8]] = []
        found = 0
        for folder in folders:
            for pair in iterate_pairs(folder, upscale):
                found += 1
                if min(pair.lr.shape[:2]) >= self.patch:
                    self.hr.append(pair.hr)
                    self.lr.append(pair.lr)
        if not self.hr:
            raise QsearchError(
                f"none of the {found} training images has sides of {self.patch * upscale} pixels: "
                f"give larger images or a smaller patch (now {self.patch} low-resolution pixels)"
            )
        self.skipped = found - len(self.hr)
        # Every patch position is equally likely, so that large images count for more than small ones.
        positions = np.array([(h - self.patch + 1) * (w - self.patch + 1) for h, w, _ in (x.shape for x in self.lr)])
        self.likelihood = positions / positions.sum()

    @staticmethod
    def of(folders: Sequence[Path | str], upscale: int, white: float, settings: TrainingSettings) -> "Patches":
        """The patches that a training with `settings` sees."""
        return Patches(
            folders, upscale=upscale, white=white, patch=settings.patch, batch=settings.batch, seed=settings.seed
        )

    def batch_of(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Input `[B, 3, P, P]` and target of one iteration, float32 in 0…white."""
        random = np.random.default_rng([self.seed, iteration])
        lr, hr = [], []
        for index in random.choice(len(self.hr), self.batch, p=self.likelihood):
            height, width, _ = self.lr[index].shape
            top, left = random.integers(height - self.patch + 1), random.integers(width - self.patch + 1)
            turn = int(random.integers(TURNS))
            lr.append(turned(_cut(self.lr[index], top, left, self.patch), turn))
            u = self.upscale
            hr.append(turned(_cut(self.hr[index], top * u, left * u, self.patch * u), turn))
        return _tensor(lr, self.white), _tensor(hr, self.white)


def _cut(image: NDArray[np.uint8], top: int, left: int, size: int) -> NDArray[np.uint8]:
    return image[top : top + size, left : left + size]


def _tensor(patches: list[NDArray[np.uint8]], white: float) -> Tensor:
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() * (white / 255.0)
