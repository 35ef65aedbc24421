"""The vocabulary of the graphs between passes: every node calls one of these modules or a plain torch.nn one.

A traced network is first rewritten in this vocabulary (`normalize`), so that each later pass matches module types and
nothing else, whichever tracer made the graph.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["none", "relu", "prelu", "clip"]


class Affine(nn.Module):
    """`x·gain[c] + offset[c]`: a constant multiplication and addition per channel ([C] or [1])."""

    gain: Tensor
    offset: Tensor

    def __init__(self, gain: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.register_buffer("gain", gain.detach().clone().reshape(-1))
        self.register_buffer("offset", offset.detach().clone().reshape(-1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain.to(x.dtype).view(1, -1, 1, 1) + self.offset.to(x.dtype).view(1, -1, 1, 1)


class Add(nn.Module):
    """Sum of two tensors of the same shape."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Clip(nn.Module):
    """Clamp to constants; None is an open end."""

    def __init__(self, lo: float | None, hi: float | None) -> None:
        super().__init__()
        self.lo, self.hi = lo, hi

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(self.lo, self.hi)


class RepeatChannels(nn.Module):
    """Every channel `n` times in a row."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.n, dim=1)


class Concat(nn.Module):
    """Tensors joined along the channels."""

    def forward(self, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors, dim=1)


class SelectChannels(nn.Module):
    """Channels `start` to `stop` (excluded)."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.start : self.stop]


class FusedConv(nn.Module):
    """Convolution, skip operands and activation in one: `act(conv(x) + Σ skips · skip_gain[c])`.

    The border of `x` is filled with `pad_value[ci]` (0 unless a constant was folded across the padding). The name is
    the module path of the convolution in the user's network and prefixes the names of its sites.
    """

    weight: Tensor
    bias: Tensor
    pad_value: Tensor
    slope: Tensor

    def __init__(self, name: str, conv: nn.Conv2d, padding: tuple[int, int]) -> None:
        super().__init__()
        self.name = name
        self.identity = False
        """Whether it only carries a sum or an activation that had no convolution of its own."""
        self.weight = nn.Parameter(conv.weight.detach().clone(), requires_grad=False)
        bias = conv.bias.detach().clone() if conv.bias is not None else torch.zeros(conv.out_channels)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.stride = int(conv.stride[0])
        self.padding = padding
        self.groups = conv.groups
        self.register_buffer("pad_value", torch.zeros(conv.in_channels))
        self.activation: Activation = "none"
        self.register_buffer("slope", torch.zeros(conv.out_channels))
        self.skip_gains = nn.ParameterList()
        """One factor per channel [Co] for every skip operand; 1 until channels are equalized."""
        self.clip: tuple[float | None, float | None] = (None, None)

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        return self.activate(self.convolve(x, self.weight, skips))

    def convolve(self, x: Tensor, weight: Tensor, skips: Sequence[Tensor], bias: Tensor | None = None) -> Tensor:
        """The sum before the activation, with the given weights, and bias unless it is its own."""
        rows, columns = self.padding
        bias = self.bias if bias is None else bias
        if self.pad_value.any():
            shift = self.pad_value.view(1, -1, 1, 1)
            x = F.pad(x - shift, (columns, columns, rows, rows)) + shift
            y = F.conv2d(x, weight, bias, stride=self.stride, groups=self.groups)
        else:
            y = F.conv2d(x, weight, bias, stride=self.stride, padding=self.padding, groups=self.groups)
        for skip, gain in zip(skips, self.skip_gains, strict=True):
            y = y + skip * gain.view(1, -1, 1, 1)
        return y

    def activate(self, y: Tensor) -> Tensor:
        """The activation of the sum."""
        if self.activation == "relu":
            return F.relu(y)
        if self.activation == "prelu":
            return F.prelu(y, self.slope)
        if self.activation == "clip":
            return y.clamp(*self.clip)
        return y
