"""Insert a quantizer at every site: every convolution's input and skip operands, the first and the last included."""

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qsearch.allocation import Site, SiteKind
from qsearch.integer.ops import snap
from qsearch.passes.operators import FusedConv, RepeatChannels
from qsearch.passes.rewrite import copy_graph, module_of


class Quantizer(nn.Module):
    """Fake quantization of one activation site: `(clip(rint(x/scale) + zp, lo, hi) − zp)·scale`, snapped if piecewise.

    Until a grid is set it passes its input through. It shows the value that the integer network holds there.
    """

    scale: Tensor
    bounds: Tensor

    def __init__(self, site: str) -> None:
        super().__init__()
        self.site = site
        self.register_buffer("scale", torch.zeros(()))
        self.register_buffer("bounds", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        if self.scale == 0:
            return x
        zero_point, lo, hi = self.bounds[:3].unbind()
        steps = torch.round(x / self.scale).clamp(lo - zero_point, hi - zero_point)
        if self.bounds.numel() == 6:
            steps = snap(steps + zero_point, self.bounds[3:]) - zero_point
        return steps * self.scale


def insert_quantizers(graph: GraphModule) -> GraphModule:
    """A new graph with a `Quantizer` between every `FusedConv` and each of its operands.

    Sites are named `<convolution>.input` and `<convolution>.skip` (`.skip2`, … for further skip operands).
    """
    graph = copy_graph(graph)
    for node in list(graph.graph.nodes):
        conv = module_of(graph, node)
        if not isinstance(conv, FusedConv):
            continue
        quantized = []
        for index, operand in enumerate(node.args):
            assert isinstance(operand, Node)
            site = f"{conv.name}.{_role(index)}"
            name = f"quantizer_{site.replace('.', '_')}"
            graph.add_submodule(name, Quantizer(site))
            with graph.graph.inserting_before(node):
                quantized.append(graph.graph.call_module(name, (operand,)))
        node.args = tuple(quantized)
    graph.graph.lint()
    graph.recompile()
    return graph


def _role(index: int) -> str:
    return {0: "input", 1: "skip"}.get(index, f"skip{index}")


def sites(graph: GraphModule) -> list[Site]:
    """Every site of a quantized graph in the order of the data.

    What reads the uint8 image is fixed at 8 bits, and so is the weight of an identity convolution, whose input counts
    as a skip operand.
    """
    found: list[Site] = []
    for node in graph.graph.nodes:
        conv = module_of(graph, node)
        if not isinstance(conv, FusedConv):
            continue
        free = Site.model_fields["choices"].default
        found.append(Site(name=f"{conv.name}.weight", kind="weight", choices=(8,) if conv.identity else free))
        for index, quantizer in enumerate(node.args):
            kind: SiteKind = "input" if index == 0 and not conv.identity else "skip"
            choices = (8,) if reads_image(quantizer.args[0]) else free
            found.append(Site(name=f"{conv.name}.{_role(index)}", kind=kind, choices=choices))
    return found


def reads_image(node: Node) -> bool:
    """Whether `node` is the image itself or an index map of it."""
    while node.op == "call_module" and isinstance(_module(node), (nn.PixelShuffle, RepeatChannels)):
        node = node.args[0]  # type: ignore[assignment]
    return node.op == "placeholder"


def _module(node: Node) -> nn.Module | None:
    graph = node.graph.owning_module
    return module_of(graph, node) if graph is not None else None
