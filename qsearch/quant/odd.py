"""FQSR's quantizers as its code has them, for comparison: fake-quantized only, no integer program has these levels.

A signed value takes one of 2^bits odd multiples of interval/(2^bits − 1), none of them zero; an unsigned one takes
multiples from 0 on. One interval per tensor, of weights too. The border of a convolution is padded before quantization,
so that it holds the level next to zero. Source: Wang et al., ACM MM 2021, and its released code.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qsearch.allocation import Allocation
from qsearch.errors import QsearchError
from qsearch.quant.calibration import Calibration
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.free import FreeConv, FreeTwin
from qsearch.quant.lattice import LatticeQuantizer
from qsearch.quant.twin import TwinConv


def odd_levels(x: Tensor, interval: Tensor, bits: int, signed: bool) -> Tensor:
    """`x` on 2^bits levels over −interval … interval, or 0 … interval; rounding passes gradients."""
    steps = 2**bits - 1
    share = x / interval
    if not signed:
        return _round(share.clamp(0, 1) * steps) / steps * interval
    return (_round((share.clamp(-1, 1) + 1) / 2 * steps) / steps * 2 - 1) * interval


def _round(x: Tensor) -> Tensor:
    return x + (torch.round(x) - x).detach()


class OddQuantizer(nn.Module):
    """Fake quantization of one activation with a learned interval, kept as the logarithm of what it grew by."""

    start: Tensor

    def __init__(self, interval: float, bits: int, signed: bool) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.register_buffer("start", torch.tensor(interval))
        self.log_interval = nn.Parameter(torch.zeros(()))
        self.unit: float | None = None
        self.change: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = odd_levels(x, self.start * self.log_interval.exp(), self.bits, self.signed)
        self.change = (y - x).abs().mean() / self.unit if self.unit is not None else None
        return y


class OddConv(FreeConv):
    """A convolution with weights of odd levels; `log_scale` [1] grows the interval of the whole tensor."""

    largest: Tensor

    def __init__(self, twin: TwinConv, bits: int, quantizer: nn.Module) -> None:
        super().__init__(twin)
        self.bits = bits
        self.reads = [quantizer]  # in a list, so that it is not counted as a part of this module
        self.register_buffer("largest", self.float_weight.abs().max())
        self.log_scale = nn.Parameter(torch.zeros(1))

    def quantized_weight(self) -> Tensor:
        return odd_levels(self.weight(), self.largest * self.log_scale.exp(), self.bits, True)

    def sums(self, x: Tensor, *skips: Tensor) -> Tensor:
        conv = self.conv
        rows, columns = conv.padding
        border = self.reads[0](conv.pad_value.view(1, -1, 1, 1))
        x = F.pad(x - border, (columns, columns, rows, rows)) + border
        y = F.conv2d(x, self.quantized_weight(), self.bias(), stride=conv.stride, groups=conv.groups)
        for skip, gain in zip(skips, conv.skip_gains, strict=True):
            y = y + skip * gain.view(1, -1, 1, 1)
        return y


class OddTwin(FreeTwin):
    """The network of `allocation` with FQSR's levels, from the ranges of `start`; piecewise sites are refused."""

    def __init__(self, calibration: Calibration, allocation: Allocation, start: FineTuned) -> None:
        super().__init__(calibration, allocation, start)
        for site, target in self.sites.items():
            grid = start.grids[site]
            if grid.pieces is not None:
                raise QsearchError(f"site {site} is piecewise, which FQSR's levels cannot be: use uniform quantizers")
            low, high = (grid.scale * (bound - grid.zero_point) for bound in (grid.lo, grid.hi))
            if isinstance(self.graph.get_submodule(target), LatticeQuantizer):
                odd = OddQuantizer(max(-low, high), allocation.bits(site), low < 0)
                self.graph.set_submodule(target, odd)
        for node in self.graph.graph.nodes:
            module = self.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, FreeConv):
                read = self.graph.get_submodule(str(node.args[0].target)) if node.args[0].op == "call_module" else None
                quantizer = read if isinstance(read, OddQuantizer) else nn.Identity()
                bits = allocation.bits(f"{module.conv.name}.weight")
                self.graph.set_submodule(str(node.target), OddConv(module, bits, quantizer))
        self.graph.recompile()

    def quantizers(self) -> list[OddQuantizer]:  # type: ignore[override]
        return [module for module in self.graph.modules() if isinstance(module, OddQuantizer)]

    def finetuned(self) -> FineTuned:
        raise QsearchError("FQSR's levels are fake-quantized only: train levels with an exact zero to compile")
