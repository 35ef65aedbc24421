"""The twin for quantization-aware training: its weights move freely instead of being rounded this way or that."""

from typing import Any

import torch
from torch import Tensor, nn

from qsearch.allocation import Allocation
from qsearch.errors import QsearchError
from qsearch.quant.calibration import Calibration
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.lattice import LatticeQuantizer
from qsearch.quant.twin import Twin, TwinConv

BIAS_LEVELS = 16.0
"""255ths of the reader's range by which a bias moves while weights move by the root mean square of their channel."""


class FreeConv(TwinConv):
    """A convolution that starts with the integers of `twin` and whose float weights are trained.

    `moved` is in units of the root mean square of each output channel's weights, so that one learning rate suits every
    layer, however its channels are equalized.
    """

    unit: Tensor

    def __init__(self, twin: TwinConv) -> None:
        nn.Module.__init__(self)
        self.conv, self.top = twin.conv, twin.top
        with torch.no_grad():
            start = twin.real() * twin.scale().view(-1, 1, 1, 1)
            unit = start.square().mean((1, 2, 3), keepdim=True).sqrt()
        self.register_buffer("float_weight", start)
        self.register_buffer("unit", unit.clamp_min(1e-3 * float(unit.max()) or 1.0))
        self.register_buffer("start_scale", twin.scale().detach())
        self.register_buffer("start_bias", twin.bias().detach())
        self.register_buffer("level", twin.level.clone())
        self.log_scale = nn.Parameter(torch.zeros_like(twin.log_scale))
        self.bias_levels = nn.Parameter(torch.zeros_like(twin.bias_levels))
        self.moved = nn.Parameter(torch.zeros_like(start))

    def weight(self) -> Tensor:
        """The float weights, float32 [Co, Ci/groups, kh, kw]."""
        return self.float_weight + self.unit * self.moved

    def real(self) -> Tensor:
        return self.weight() / self.scale().view(-1, 1, 1, 1)

    def quantized_weight(self) -> Tensor:
        """What the float weights become."""
        return self.values() * self.scale().view(-1, 1, 1, 1)

    def sums(self, x: Tensor, *skips: Tensor) -> Tensor:
        return self.conv.convolve(x, self.quantized_weight(), skips, self.bias())


class FreeTwin(Twin):
    """The twin of `allocation`, from the parameters of `start`, whose weights move freely."""

    def __init__(self, calibration: Calibration, allocation: Allocation, start: FineTuned) -> None:
        super().__init__(calibration, allocation, start)
        for name, module in list(self.graph.named_modules()):
            if isinstance(module, TwinConv) and not module.conv.identity:
                self.graph.set_submodule(name, FreeConv(module))
        self.graph.recompile()

    def free_convolutions(self) -> list[FreeConv]:
        """All but the identity convolutions, in the order of the data."""
        return [module for module in self.graph.modules() if isinstance(module, FreeConv)]

    def quantizers(self) -> list[LatticeQuantizer]:
        """Those of activations, in the order of the data."""
        return [module for module in self.graph.modules() if isinstance(module, LatticeQuantizer)]

    def training_groups(self, interval_unit: float) -> list[dict[str, Any]]:
        """What is trained, for an optimizer; `unit` multiplies the learning rate. No intervals for `interval_unit` 0.

        Intervals are the scales of weights (by output channel) and the steps of activations; they grow by a factor.
        """
        convolutions = self.free_convolutions()
        intervals = [conv.log_scale for conv in convolutions]
        for quantizer in self.quantizers():
            intervals += list(quantizer.parameters())
        groups = [
            {"params": [conv.moved for conv in convolutions], "unit": 1.0},
            {"params": [conv.bias_levels for conv in convolutions], "unit": BIAS_LEVELS},
        ]
        return [*groups, {"params": intervals, "unit": interval_unit}] if interval_unit else groups


class FloatTwin(FreeTwin):
    """The same parameters and nothing quantized: what a trained allocation is compared with."""

    def __init__(self, calibration: Calibration, allocation: Allocation, start: FineTuned) -> None:
        super().__init__(calibration, allocation, start)
        for target in set(self.sites.values()):
            self.graph.set_submodule(target, nn.Identity())
        for name, module in list(self.graph.named_modules()):
            if isinstance(module, FreeConv):
                self.graph.set_submodule(name, FloatConv(module))
        self.graph.recompile()

    def finetuned(self) -> FineTuned:
        raise QsearchError("a float network trained for comparison has no integer parameters")


class FloatConv(FreeConv):
    """A convolution that starts at the float weights and bias, not at quantized ones, and stays there in float."""

    def __init__(self, twin: FreeConv) -> None:
        super().__init__(twin)
        self.float_weight.copy_(self.conv.weight.detach())
        self.start_bias.copy_(self.conv.bias.detach())

    def quantized_weight(self) -> Tensor:
        return self.weight()
