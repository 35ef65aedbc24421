"""What a prepared graph computes and stores, layer by layer, for one input size."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.fx import GraphModule, Interpreter, Node

from qsearch.passes.operators import Concat, FusedConv, RepeatChannels
from qsearch.passes.rewrite import module_of


@dataclass(frozen=True)
class Layer:
    """One convolution at one input size."""

    name: str
    macs: int
    """Multiplications, biases and skip operands not counted."""
    weights: int
    out_channels: int
    out_values: int
    """Values of its output."""
    identity: bool


def layers(graph: GraphModule, height: int, width: int) -> list[Layer]:
    """The convolutions of `graph` in the order of the data for an LR image of `height` × `width` pixels."""
    shapes = _Shapes(graph)
    with torch.no_grad():
        shapes.run(torch.zeros(1, 3, height, width, device="meta"))
    return shapes.found


class _Shapes(Interpreter):
    """Propagates shapes on the meta device, without arithmetic."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.found: list[Layer] = []

    def run_node(self, n: Node) -> torch.Tensor:
        module = module_of(self.module, n)  # type: ignore[arg-type]
        args, _ = self.fetch_args_kwargs_from_env(n)
        if isinstance(module, FusedConv):
            return self._convolution(module, args[0])
        if isinstance(module, nn.PixelShuffle):
            r = module.upscale_factor
            c, h, w = args[0].shape[1:]
            return torch.empty(1, c // r**2, h * r, w * r, device="meta")
        if isinstance(module, RepeatChannels):
            c, h, w = args[0].shape[1:]
            return torch.empty(1, c * module.n, h, w, device="meta")
        if isinstance(module, Concat):
            return torch.cat(args, dim=1)
        if module is not None:
            return args[0]
        return super().run_node(n)

    def _convolution(self, conv: FusedConv, x: torch.Tensor) -> torch.Tensor:
        out_channels, per_group, kh, kw = conv.weight.shape
        rows = (x.shape[2] + 2 * conv.padding[0] - kh) // conv.stride + 1
        columns = (x.shape[3] + 2 * conv.padding[1] - kw) // conv.stride + 1
        values = out_channels * rows * columns
        self.found.append(
            Layer(conv.name, values * per_group * kh * kw, conv.weight.numel(), out_channels, values, conv.identity)
        )
        return torch.empty(1, out_channels, rows, columns, device="meta")
