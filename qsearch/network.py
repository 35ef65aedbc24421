"""A float network that is prepared and calibrated: everything that turns an allocation into an integer program."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from qsearch import cost
from qsearch.allocation import Allocation, Site
from qsearch.integer.lowering import lower
from qsearch.models import LoadedModel
from qsearch.passes import prepare, sites
from qsearch.quant import Calibration, calibrate
from qsearch.quant.finetuned import FineTuned


@dataclass(frozen=True)
class CalibratedNetwork:
    """One network and what calibration saw of it."""

    model: LoadedModel
    calibration: Calibration

    @staticmethod
    def make(
        model: LoadedModel,
        images: Sequence[NDArray[np.uint8]],
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> "CalibratedNetwork":
        """Prepare `model` and calibrate it on low-resolution images (uint8 [H, W, 3])."""
        return CalibratedNetwork(model, calibrate(prepare(model.module), images, model.white, seed, progress))

    @cached_property
    def sites(self) -> list[Site]:
        """Every site in the order of the data."""
        return sites(self.calibration.graph)

    def program(self, allocation: Allocation, finetuned: FineTuned | None = None) -> GraphModule:
        """The integer program of `allocation`, with the parameters of `finetuned` where given."""
        return lower(self.calibration, allocation, finetuned)

    def layers(self, size: tuple[int, int]) -> list[cost.Layer]:
        """The convolutions for an LR image of `size` = (height, width)."""
        return cost.layers(self.calibration.graph, *size)

    def coster(self, size: tuple[int, int], names: Iterable[str]) -> Callable[[Allocation], dict[str, float]]:
        """A function that gives `bitops` and `weight_bytes` of an allocation at `size` = (height, width).

        `peak_bytes`, which takes a lowering, is among them only where `names` asks for it.
        """
        layers, with_peak = self.layers(size), "peak_bytes" in set(names)

        def costs(allocation: Allocation) -> dict[str, float]:
            found = {
                "bitops": float(cost.bitops(layers, allocation)),
                "weight_bytes": float(cost.weight_bytes(layers, allocation)),
            }
            if with_peak:
                found["peak_bytes"] = float(cost.peak_bytes(self.program(allocation), *size))
            return found

        return costs
