"""Where quantization-aware training begins: intervals by the moving average of the maximum over some batches."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.fx import Interpreter, Node

from qsearch.allocation import Allocation
from qsearch.passes.quantizers import Quantizer, reads_image
from qsearch.passes.rewrite import module_of
from qsearch.quant.calibration import Calibration
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.grid import Grid, activation_grid
from qsearch.quant.twin import Twin


def calibrated_start(calibration: Calibration, allocation: Allocation) -> FineTuned:
    """The grids, weights and biases of post-training quantization."""
    return Twin(calibration, allocation).finetuned()


def maximum_start(calibration: Calibration, allocation: Allocation, batches: Iterable[Tensor]) -> FineTuned:
    """As `calibrated_start`, but uniform activation grids reach from the mean of the least values of `batches` to the
    mean of the greatest, as the float network has them (FQSR); piecewise grids stay.
    """
    ranges = _Ranges(calibration)
    with torch.no_grad():
        for batch in batches:
            ranges.run(batch)
    start = calibrated_start(calibration, allocation)
    grids = dict(start.grids)
    for site, found in ranges.found.items():
        if site in grids and grids[site].pieces is None:
            grids[site] = _grid(found, allocation.bits(site))
    return FineTuned(allocation, start.calibrated, grids, start.weights, start.biases)


def _grid(found: list[tuple[float, float]], bits: int) -> Grid:
    low, high = (sum(values) / len(found) for values in zip(*found, strict=True))
    return activation_grid(low, high, bits)


class _Ranges(Interpreter):
    """Keeps the least and the greatest value of every site on every batch."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__(calibration.graph)
        self.found: dict[str, list[tuple[float, float]]] = {}

    def run_node(self, n: Node) -> Tensor:
        value: Tensor = super().run_node(n)
        module = module_of(self.module, n)  # type: ignore[arg-type]
        if isinstance(module, Quantizer) and not reads_image(n.args[0]):  # type: ignore[arg-type]
            self.found.setdefault(module.site, []).append((float(value.min()), float(value.max())))
        return value
