"""A convolution that is trained in float arithmetic on the values that its int8 form would have."""

import torch
from torch import Tensor, nn

TOP = 127
FOLLOW = 0.05
"""How far the input's range moves to the maximum of a training batch."""


class Conv8(nn.Conv2d):
    """Input and weights on symmetric 8-bit grids: one step for the input, one for each output channel's weights.

    The input's range follows the maximum magnitude of the training batches, and is that of each batch until there was
    one. A given `top` is used instead once it is positive: several convolutions then see values on one grid. Rounding
    passes gradients.
    """

    top: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel: int, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias)
        self.register_buffer("top", torch.zeros(()))

    def forward(self, x: Tensor, top: Tensor | None = None) -> Tensor:
        most = x.detach().abs().max()
        if self.training:
            self.top.copy_(torch.where(self.top > 0, self.top.lerp(most, FOLLOW), most))
        own = torch.where(self.top > 0, self.top, most)
        step = (own if top is None else torch.where(top > 0, top, own)) / TOP
        weight_step = self.weight.detach().abs().amax((1, 2, 3), keepdim=True) / TOP
        return self._conv_forward(rounded(x, step), rounded(self.weight, weight_step), self.bias)


def rounded(x: Tensor, step: Tensor) -> Tensor:
    """The multiple of `step` from −127 to 127 that is nearest to x; the gradient is that of x, 0 beyond the ends."""
    step = step.clamp_min(1e-12)
    inside = torch.minimum(torch.maximum(x, -TOP * step), TOP * step)
    return inside + (torch.round(inside / step) * step - inside).detach()
