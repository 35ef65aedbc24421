"""The outputs of layers inside a network, and how much each counts."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qsearch.passes.operators import FusedConv
from qsearch.passes.rewrite import module_of
from qsearch.quant.finetune_settings import FineTuneSettings
from qsearch.quant.twin import TwinConv


class Features:
    """Runs a graph and gives its output with the outputs of its `blocks` (convolutions with a skip operand) or `all`.

    A network without skip operands gives all.
    """

    def __init__(self, graph: GraphModule, which: Literal["blocks", "all"]) -> None:
        self.graph = graph
        found = {str(node.target): len(node.args) > 1 for node in graph.graph.nodes if _is_inner_conv(graph, node)}
        blocks = [name for name, with_skip in found.items() if with_skip]
        self.names = blocks if which == "blocks" and blocks else list(found)

    def run(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The output and the features by the target of their node."""
        kept: dict[str, Tensor] = {}
        hooks = [self.graph.get_submodule(name).register_forward_hook(_keep(kept, name)) for name in self.names]
        try:
            return self.graph(x), kept
        finally:
            for hook in hooks:
                hook.remove()


def _is_inner_conv(graph: GraphModule, node: Any) -> bool:
    """Whether it is a convolution whose value is not the network's result."""
    if not isinstance(module_of(graph, node), (FusedConv, TwinConv)):
        return False
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op == "output":
            return False
        if isinstance(module_of(graph, node), (FusedConv, TwinConv)):
            return True
    return True


def _keep(kept: dict[str, Tensor], name: str) -> Any:
    def hook(module: nn.Module, operands: tuple[Tensor, ...], result: Tensor) -> None:
        kept[name] = result

    return hook


def feature_weights(
    floating: Features, batches: Sequence[Tensor], settings: FineTuneSettings, white: float
) -> dict[str, float]:
    """What every feature counts, together 1: by the standard deviation σ of its values, or all alike."""
    if settings.weighting == "equal":
        return dict.fromkeys(floating.names, 1 / max(len(floating.names), 1))
    sigma = torch.zeros(len(floating.names))
    with torch.no_grad():
        for batch in batches:
            _, features = floating.run(batch)
            sigma += torch.stack([features[name].std() for name in floating.names]) / len(batches)
    if settings.weighting == "raw":
        logits = sigma * (255 / white)
    else:
        logits = sigma / sigma.max().clamp_min(1e-12) / settings.temperature
    return dict(zip(floating.names, torch.softmax(logits, 0).tolist(), strict=True))
