"""Divide values at the channels where they are split, so that only whole values are read and only readers join them."""

import copy
from itertools import pairwise

from torch import nn
from torch.fx import Graph, GraphModule, Node

from qsearch.errors import QsearchError
from qsearch.passes.channels import channels_of, selection
from qsearch.passes.operators import Add, Affine, Clip, Concat, FusedConv, RepeatChannels, SelectChannels
from qsearch.passes.rewrite import copy_graph, module_of

PER_CHANNEL = (nn.ReLU, nn.PReLU, Clip, Affine)


def divide(graph: GraphModule) -> GraphModule:
    """A new graph without `SelectChannels`, in which no `Concat` is read by a `Concat`, an activation or a shuffle.

    A convolution whose channels are read in parts becomes one convolution per part; what lies between it and the
    reader is divided alike. Raises `QsearchError` naming the node that cannot be divided.
    """
    graph = copy_graph(graph)
    if not any(isinstance(module, (Concat, SelectChannels)) for module in graph.modules()):
        return graph
    return _Divider(graph).run()


class _Divider:
    def __init__(self, source: GraphModule) -> None:
        self.source = source
        self.graph = Graph()
        self.channels = {n: channels_of(source, n) for n in source.graph.nodes if n.op != "output"}
        self.cuts = {node: {0, count} for node, count in self.channels.items()}
        self.pieces: dict[Node, list[tuple[int, Node]]] = {}
        self.joined: dict[tuple[Node, ...], Node] = {}

    def run(self) -> GraphModule:
        self._find_cuts()
        for node in self.source.graph.nodes:
            if node.op == "output":
                self.graph.output(self._whole(node.args[0]))
                continue
            image = self.graph.node_copy(node) if node.op == "placeholder" else None
            self.pieces[node] = [
                (start, self._piece(node, start, stop) if image is None else self._select(node, image, start, stop))
                for start, stop in pairwise(sorted(self.cuts[node]))
            ]
        self.graph.lint()
        divided = GraphModule(self.source, self.graph)
        divided.delete_all_unused_submodules()
        return divided

    def _find_cuts(self) -> None:
        """Where every value is divided: propagated from reader to producer, and through what an activation follows."""
        before = -1
        while before != (now := sum(map(len, self.cuts.values()))):
            before = now
            for node in self.channels:
                self._cut_from_source(node)
            for node in reversed(self.channels):
                self._cut_source(node)

    def _cut_from_source(self, node: Node) -> None:
        module = module_of(self.source, node)
        if isinstance(module, Concat):
            for operand, first in self._operands(node):
                self.cuts[node] |= {first + cut for cut in self.cuts[operand]}
        elif isinstance(module, PER_CHANNEL) and not isinstance(module, Affine):
            self.cuts[node] |= self.cuts[node.args[0]]
        elif isinstance(module, nn.PixelShuffle):
            area = module.upscale_factor**2
            cuts = self.cuts[node.args[0]]
            self.cuts[node] |= {cut // area for cut in cuts if all(c % area == 0 for c in cuts)}

    def _cut_source(self, node: Node) -> None:
        module, cuts = module_of(self.source, node), self.cuts[node]
        if isinstance(module, Concat):
            for operand, first in self._operands(node):
                self.cuts[operand] |= {cut - first for cut in cuts if 0 <= cut - first <= self.channels[operand]}
        elif isinstance(module, SelectChannels):
            self.cuts[node.args[0]] |= {module.start + cut for cut in cuts}
        elif isinstance(module, (*PER_CHANNEL, Add)):
            for operand in node.all_input_nodes:
                self.cuts[operand] |= cuts
        elif isinstance(module, nn.PixelShuffle):
            self.cuts[node.args[0]] |= {cut * module.upscale_factor**2 for cut in cuts}
        elif isinstance(module, RepeatChannels):
            self.cuts[node.args[0]] |= {cut // module.n for cut in cuts if cut % module.n == 0}

    def _operands(self, node: Node) -> list[tuple[Node, int]]:
        """The operands of a concatenation with the channel at which each begins."""
        found, first = [], 0
        for operand in node.args:
            assert isinstance(operand, Node)
            found.append((operand, first))
            first += self.channels[operand]
        return found

    def _whole(self, node: object) -> Node:
        assert isinstance(node, Node)
        return self._take(node, 0, self.channels[node])

    def _take(self, node: Node, start: int, stop: int) -> Node:
        """Channels `start` to `stop` of a value of the source graph, in the new graph; both are cuts of it."""
        found = tuple(piece for first, piece in self.pieces[node] if start <= first < stop)
        if len(found) == 1:
            return found[0]
        if found not in self.joined:
            self.joined[found] = self._call(node, "joined", Concat(), *map(self._off_image, found))
        return self.joined[found]

    def _piece(self, node: Node, start: int, stop: int) -> Node:
        """One piece of `node`, made of pieces of its operands."""
        module, whole = module_of(self.source, node), (start, stop) == (0, self.channels[node])
        if isinstance(module, Concat):
            operand, first = next(pair for pair in reversed(self._operands(node)) if pair[1] <= start)
            return self._take(operand, start - first, stop - first)
        if isinstance(module, SelectChannels):
            return self._take(node.args[0], module.start + start, module.start + stop)  # type: ignore[arg-type]
        if whole:
            return self.graph.node_copy(node, self._whole)
        return self._part(node, start, stop)

    def _part(self, node: Node, start: int, stop: int) -> Node:
        """A true part of what `node` computes."""
        module = module_of(self.source, node)
        span = f"{start}_{stop}"
        if isinstance(module, FusedConv):
            return self._call(node, span, _part_of_conv(module, start, stop), self._whole(node.args[0]))
        if isinstance(module, (*PER_CHANNEL, Add)):
            operands = [self._take(operand, start, stop) for operand in node.args]  # type: ignore[arg-type]
            return self._call(node, span, _part_of(module, start, stop), *operands)
        if isinstance(module, nn.PixelShuffle):
            area = module.upscale_factor**2
            source = self._take(node.args[0], start * area, stop * area)  # type: ignore[arg-type]
            return self._call(node, span, nn.PixelShuffle(module.upscale_factor), source)
        if isinstance(module, RepeatChannels) and start % module.n == stop % module.n == 0:
            source = self._take(node.args[0], start // module.n, stop // module.n)  # type: ignore[arg-type]
            return self._call(node, span, RepeatChannels(module.n), source)
        return self._select(node, self.graph.node_copy(node, self._whole), start, stop)

    def _select(self, node: Node, value: Node, start: int, stop: int) -> Node:
        """Channels of a value that no convolution makes: a convolution of its own picks them."""
        if (start, stop) == (0, self.channels[node]):
            return value
        return self._call(node, f"{start}_{stop}", selection("", self.channels[node], start, stop), value)

    def _off_image(self, piece: Node) -> Node:
        """`piece` itself, or its copy by a convolution where it is the image, which cannot be requantized."""
        source = piece
        while isinstance(module_of(self.source, source), (nn.PixelShuffle, RepeatChannels)):
            source = source.args[0]  # type: ignore[assignment]
        if source.op != "placeholder":
            return piece
        channels = channels_of(self.source, piece)
        return self._call(piece, "identity", selection("", channels, 0, channels), piece)

    def _call(self, node: Node, suffix: str, module: nn.Module, *operands: Node) -> Node:
        """A node that calls `module`, named after the node it comes from."""
        base = node.target if node.op == "call_module" else node.name
        name, count = f"{base}_{suffix}", 1
        while any(name == known for known, _ in self.source.named_modules()):
            name, count = f"{base}_{suffix}_{count}", count + 1
        if isinstance(module, FusedConv):
            module.name = name
        self.source.add_submodule(name, module)
        return self.graph.call_module(name, operands)


def _part_of(module: nn.Module | None, start: int, stop: int) -> nn.Module:
    """What `module` does to the channels `start` to `stop`."""
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        part = nn.PReLU(stop - start)
        part.weight.data = module.weight.detach()[start:stop].clone()
        return part
    if isinstance(module, Affine):
        gain, offset = (t if t.numel() == 1 else t[start:stop] for t in (module.gain, module.offset))
        return Affine(gain, offset)
    assert module is not None
    return copy.deepcopy(module)


def _part_of_conv(conv: FusedConv, start: int, stop: int) -> FusedConv:
    if conv.groups > 1:
        raise QsearchError(f"convolution {conv.name}: the channels of a grouped convolution cannot be split")
    part = copy.deepcopy(conv)
    part.weight = nn.Parameter(conv.weight.detach()[start:stop].clone(), requires_grad=False)
    part.bias = nn.Parameter(conv.bias.detach()[start:stop].clone(), requires_grad=False)
    part.slope = conv.slope[start:stop].clone()
    return part
