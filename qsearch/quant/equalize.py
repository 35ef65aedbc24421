"""Equalize the channels of every activation before it is quantized.

One grid serves all channels of a tensor, so a channel with a small range gets few of its steps. Dividing each channel
by a positive factor and multiplying it back in the weights of its readers changes nothing in float arithmetic and costs
nothing in the integer program, whose requantization and skip factors are per channel anyway. Source: cross-layer
equalization (Nagel et al., ICCV 2019, §4.1), here also across skip operands and pixel shuffles.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from qsearch.passes.channels import channels_of
from qsearch.passes.operators import Concat, FusedConv
from qsearch.passes.quantizers import Quantizer
from qsearch.passes.rewrite import copy_graph, module_of

STRENGTH = 0.5
"""0 leaves the channels alone, 1 gives all the same range; in between, the readers' weights stay easy to quantize."""
SMALLEST = 1 / 32


class ChannelRanges(Interpreter):
    """Runs a prepared graph and keeps the largest magnitude of every channel of every activation."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.largest: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Tensor:
        value: Tensor = super().run_node(n)
        if isinstance(module_of(self.module, n), FusedConv):  # type: ignore[arg-type]
            shuffled, r = _through_shuffle(self.module, n)  # type: ignore[arg-type]
            largest = value.abs().amax((0, 2, 3))
            if shuffled is not n:
                largest = largest.view(-1, r * r).amax(1)
            old = self.largest.get(n, largest)
            self.largest[n] = torch.maximum(old, largest)
        return value

    def factors(self) -> dict[str, Tensor]:
        """The factor of every channel [C] by convolution name, the largest 1."""
        found = {}
        for node, largest in self.largest.items():
            conv = module_of(self.module, node)  # type: ignore[arg-type]
            assert isinstance(conv, FusedConv)
            if conv.activation != "clip" and float(largest.max()) > 0:
                found[conv.name] = (largest / largest.max()).clamp_min(SMALLEST) ** STRENGTH
        return found


def equalize(graph: GraphModule, factors: Mapping[str, Tensor]) -> GraphModule:
    """A new graph whose convolutions give `value / factor[c]` and whose readers take it back; the image is the same.

    A convolution whose value is the result of the network, or is read by anything else than convolutions, stays.
    """
    graph = copy_graph(graph)
    for node in graph.graph.nodes:
        conv = module_of(graph, node)
        if not isinstance(conv, FusedConv) or conv.name not in factors:
            continue
        value, r = _through_shuffle(graph, node)
        readers = _readers(graph, value)
        if readers is None or (value is not node and len(node.users) > 1):
            continue
        factor = factors[conv.name]
        _divide(conv, factor.repeat_interleave(r * r))
        for reader in readers:
            _multiply(reader, factor)
    return graph


def _through_shuffle(graph: GraphModule, node: Node) -> tuple[Node, int]:
    """The value that quantizers read, and the factor of the pixel shuffle between it and `node` (1 without)."""
    user = next(iter(node.users))
    shuffle = module_of(graph, user)
    return (user, shuffle.upscale_factor) if isinstance(shuffle, nn.PixelShuffle) else (node, 1)


@dataclass(frozen=True)
class _Reader:
    """A convolution that reads a value as its operand of this index, from channel `first` of the operand on."""

    conv: FusedConv
    operand: int
    first: int


def _readers(graph: GraphModule, value: Node, first: int = 0) -> list[_Reader] | None:
    """Every convolution that reads `value`, alone or joined with others; None if something else does."""
    found = []
    for user in value.users:
        module = module_of(graph, user)
        if isinstance(module, Quantizer):
            for reader in user.users:
                conv = module_of(graph, reader)
                if not isinstance(conv, FusedConv):
                    return None
                found.append(_Reader(conv, reader.args.index(user), first))
        elif isinstance(module, Concat):
            for place in _places(graph, user, value):
                readers = _readers(graph, user, first + place)
                if readers is None:
                    return None
                found += readers
        else:
            return None
    return found


def _places(graph: GraphModule, concat: Node, value: Node) -> list[int]:
    """The channels of `concat` at which `value` begins."""
    places, place = [], 0
    for operand in concat.args:
        if operand is value:
            places.append(place)
        place += channels_of(graph, operand)  # type: ignore[arg-type]
    return places


def _divide(conv: FusedConv, factor: Tensor) -> None:
    conv.weight = nn.Parameter(conv.weight / factor.view(-1, 1, 1, 1), requires_grad=False)
    conv.bias = nn.Parameter(conv.bias / factor, requires_grad=False)
    for gain in conv.skip_gains:
        gain.data = gain / factor


def _multiply(reader: _Reader, factor: Tensor) -> None:
    conv, span = reader.conv, slice(reader.first, reader.first + len(factor))
    if reader.operand > 0:
        gain = conv.skip_gains[reader.operand - 1]
        gain.data[span] = gain[span] * factor
        return
    per_input = torch.ones(conv.pad_value.numel())
    per_input[span] = factor
    grouped = per_input.view(conv.groups, 1, conv.weight.shape[1], 1, 1)
    weight = conv.weight.view(conv.groups, -1, *conv.weight.shape[1:])
    conv.weight = nn.Parameter((weight * grouped).reshape(conv.weight.shape), requires_grad=False)
