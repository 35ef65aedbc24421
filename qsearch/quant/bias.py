"""Bias correction: the mean of every sum is again what it was in float arithmetic.

Source: Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, §4.2, here
with means measured on images, layer after layer, so that each correction sees those before it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qsearch.passes.operators import FusedConv
from qsearch.passes.rewrite import module_of
from qsearch.quant.twin import Twin, TwinConv


def correct_biases(twin: Twin, images: Tensor) -> None:
    """Move the biases of `twin` so that every output channel has the float network's mean on `images` [N, 3, H, W]."""
    with torch.no_grad():
        floating = FloatSums(twin.calibration.graph, lambda sums: sums.mean((0, 2, 3)))
        floating.run(images)
        _Correction(twin, floating.kept).run(images)


class FloatSums(Interpreter):
    """Runs the float network and has in `kept`, by the name of a convolution, what `keep` gives of its sums."""

    def __init__(self, graph: GraphModule, keep: Callable[[Tensor], Tensor]) -> None:
        super().__init__(graph)
        self.keep = keep
        self.kept: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> object:
        conv = module_of(self.module, n)  # type: ignore[arg-type]
        if not isinstance(conv, FusedConv):
            return super().run_node(n)
        x, *skips = operands(self, n)
        sums = conv.convolve(x, conv.weight, skips)
        self.kept[conv.name] = self.keep(sums)
        return conv.activate(sums)


class _Correction(Interpreter):
    def __init__(self, twin: Twin, means: dict[str, Tensor]) -> None:
        super().__init__(twin.graph)
        self.means = means

    def run_node(self, n: Node) -> object:
        module = module_of(self.module, n)  # type: ignore[arg-type]
        if not isinstance(module, TwinConv):
            return super().run_node(n)
        x, *skips = operands(self, n)
        sums = module.sums(x, *skips)
        off = self.means[module.conv.name] - sums.mean((0, 2, 3))
        module.start_bias += off
        return module.conv.activate(sums + off.view(1, -1, 1, 1))


def operands(interpreter: Interpreter, node: Node) -> tuple[Tensor, ...]:
    """The values that `node` is about to be called with."""
    values: tuple[Tensor, ...] = interpreter.map_nodes_to_values(node.args, node)  # type: ignore[assignment]
    return values
