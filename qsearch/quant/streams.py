"""Linear values of a network, and changing their basis.

Where no activation stands between the convolutions that write a value and those that read it, any invertible matrix may
be applied to its channels and taken back by the readers: float arithmetic gives the same, and the integer program keeps
its shape. A residual stream is one such value, with all that is added to it; so is what a last convolution reads behind
a pixel shuffle. Which matrix is best for quantization is `basis`'s question.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qsearch.passes.operators import FusedConv
from qsearch.passes.quantizers import Quantizer
from qsearch.passes.rewrite import copy_graph, module_of


@dataclass(frozen=True)
class Stream:
    """Values that share a basis, as they are added to each other; named by the first convolution that writes one."""

    name: str
    writers: tuple[Node, ...]
    quantizers: tuple[Node, ...]
    """All that read the values, for a convolution or for a sum of the stream."""


def streams(graph: GraphModule) -> list[Stream]:
    """The linear values of a prepared graph, in the order of the data."""
    linear = {node for node in graph.graph.nodes if _gives_a_sum(graph, node)}
    while spoilt := {node for node in linear if not _is_free(graph, node, linear)}:
        linear -= spoilt
    groups: dict[Node, list[Node]] = {}
    for node in graph.graph.nodes:
        if node in linear:
            added = {id(group): group for skip in _skips(node) for group in [groups[operand(skip)]]}
            group = [writer for group in added.values() for writer in group] + [node]
            groups.update(dict.fromkeys(group, group))
    found = {id(group): group for group in groups.values()}
    return [_stream(graph, group) for group in found.values()]


def operand(node: Node) -> Node:
    """What `node` reads first."""
    read = node.args[0]
    assert isinstance(read, Node)
    return read


def convolution(graph: GraphModule, node: Node) -> FusedConv:
    """The convolution that `node` calls."""
    conv = module_of(graph, node)
    assert isinstance(conv, FusedConv)
    return conv


def _skips(node: Node) -> list[Node]:
    return [skip for skip in node.args[1:] if isinstance(skip, Node)]


def _stream(graph: GraphModule, writers: list[Node]) -> Stream:
    quantizers = tuple(user for node in writers for user in _value(graph, node).users)
    return Stream(convolution(graph, writers[0]).name, tuple(writers), quantizers)


def _gives_a_sum(graph: GraphModule, node: Node) -> bool:
    """Whether `node` is a convolution whose rows may be mixed."""
    conv = module_of(graph, node)
    return (
        isinstance(conv, FusedConv)
        and conv.activation == "none"
        and conv.groups == 1
        and not conv.identity
        and all(bool((gain == 1).all()) for gain in conv.skip_gains)
    )


def _is_free(graph: GraphModule, node: Node, linear: set[Node]) -> bool:
    """Whether everything that writes and reads the value of `node` can take another basis."""
    value = _value(graph, node)
    if any(operand(skip) not in linear for skip in _skips(node)) or (value is not node and len(node.args) > 1):
        return False
    for quantizer in value.users:
        if not isinstance(module_of(graph, quantizer), Quantizer):
            return False
        for reader in quantizer.users:
            conv = module_of(graph, reader)
            if not isinstance(conv, FusedConv) or conv.groups > 1 or conv.identity:
                return False
            if quantizer in _skips(reader) and (reader not in linear or value is not node):
                return False
    return True


def _value(graph: GraphModule, node: Node) -> Node:
    """What quantizers read of a convolution: its value, or the pixel shuffle of it."""
    user = next(iter(node.users))
    return user if len(node.users) == 1 and isinstance(module_of(graph, user), nn.PixelShuffle) else node


def change_bases(graph: GraphModule, bases: Mapping[str, Tensor]) -> GraphModule:
    """A new graph whose streams are `bases` [C, C] times what they were, by name, and whose readers take it back."""
    graph = copy_graph(graph)
    for stream in streams(graph):
        if stream.name in bases:
            _change(graph, stream, bases[stream.name].double())
    return graph


def _change(graph: GraphModule, stream: Stream, basis: Tensor) -> None:
    back = torch.linalg.inv(basis)
    for node in stream.writers:
        conv = convolution(graph, node)
        conv.weight = nn.Parameter(mixed_rows(conv.weight, basis), requires_grad=False)
        conv.bias = nn.Parameter(mixed_rows(conv.bias, basis), requires_grad=False)
    for quantizer in stream.quantizers:
        for reader in quantizer.users:
            if reader.args[0] is quantizer:
                conv = convolution(graph, reader)
                weight = torch.einsum("oihw,ic->ochw", conv.weight.detach().double(), back)
                conv.weight = nn.Parameter(weight.float(), requires_grad=False)
                conv.pad_value = (basis @ conv.pad_value.double()).float()


def mixed_rows(rows: Tensor, basis: Tensor) -> Tensor:
    """`basis` [C, C] times the rows of weights [Co, …] or a bias [Co], float32, with Co a multiple of C."""
    grouped = rows.detach().double().reshape(len(basis), len(rows) // len(basis), -1)
    return torch.einsum("oi,ikr->okr", basis, grouped).float().reshape(rows.shape)
