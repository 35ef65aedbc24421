"""The piecewise linear quantizer as it was printed: in float arithmetic only, to compare with the one on the lattice.

Source: Wang et al., "Outlier-aware post-training quantization for image super-resolution", ICCV 2025, eq. 3. Its first
line lacks the offset, which is put right here. Both breakpoints are coded twice, and 0 is not a value, so that no
integer network runs it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qsearch.allocation import Allocation
from qsearch.passes.operators import FusedConv
from qsearch.passes.quantizers import Quantizer
from qsearch.passes.rewrite import copy_graph
from qsearch.quant.calibration import Calibration
from qsearch.quant.moving import MovingRange, grid_of


def printed_piecewise(x: Tensor, found: MovingRange, bits: int) -> Tensor:
    """The values of `x`, of any shape, at `bits` (at least 3): half of the codes within the breakpoints."""
    inner, steps, outer_steps = found.breakpoint, 2 ** (bits - 1) - 1, 2 ** (bits - 2) - 1
    hi, lo = max(found.hi, inner), min(found.lo, -inner)
    dense = _uniform(x.clamp(-inner, inner), -inner, inner, steps)
    above = _uniform(x.clamp(inner, hi), inner, hi, outer_steps)
    below = _uniform(x.clamp(lo, -inner), lo, -inner, outer_steps)
    return torch.where(x > inner, above, torch.where(x < -inner, below, dense))


def _uniform(x: Tensor, lo: float, hi: float, steps: int) -> Tensor:
    step = (hi - lo) / steps
    return lo + torch.round((x - lo) / step) * step if step > 0 else torch.full_like(x, lo)


def as_printed(calibration: Calibration, allocation: Allocation, ranges: Mapping[str, MovingRange]) -> GraphModule:
    """The network in float arithmetic with printed quantizers at its piecewise sites.

    It takes and gives what the float network does. Weights and the other sites are as the integer network has them.
    """
    graph = copy_graph(calibration.graph)
    for name, module in list(graph.named_modules()):
        if isinstance(module, FusedConv):
            setting = allocation.sites[f"{module.name}.weight"]
            module.weight.data = calibration.weight(module, setting.bits, setting.observer).dequantize()
        elif isinstance(module, Quantizer) and module.site in ranges:
            setting, found = allocation.sites[module.site], ranges[module.site]
            if setting.quantizer == "piecewise":
                graph.add_submodule(name, _Printed(found, setting.bits))
            else:
                grid = grid_of(setting, found)
                module.scale = torch.tensor(grid.scale)
                module.bounds = torch.tensor(grid.bounds, dtype=torch.float32)
    return graph


class _Printed(nn.Module):
    def __init__(self, found: MovingRange, bits: int) -> None:
        super().__init__()
        self.found, self.bits = found, bits

    def forward(self, x: Tensor) -> Tensor:
        return printed_piecewise(x, self.found, self.bits)
