"""An integer program cut into segments, between which some of its values are replaced by others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Graph, GraphModule, Node

from qsearch.compile.fusion import Program, is_call
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.integer import ops
from qsearch.integer.storage import BOUNDS, CHANNELS

IMAGE = "image"
Values = Mapping[str, NDArray[np.uint8]]
"""uint8 [H, W, C] by the names that segments give them."""
Executor = Callable[[Values], dict[str, NDArray[np.uint8]]]
"""Runs a segment: from all values so far, of which it takes its inputs, to its outputs."""


@dataclass(frozen=True)
class Segment:
    """A part of an integer program that is an ordinary one, but for its inputs and outputs.

    `module` takes uint8 [N, C, H, W] in the order of `inputs` and gives a tuple in the order of `outputs`, or the only
    one; both are names of values: `image`, a value's node in the whole program, or `replaced` of one.
    """

    module: GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def replaced(name: str) -> str:
    """The name of the value that stands in the place of the value `name` once that is replaced."""
    return f"{name}_replaced"


def whole(module: GraphModule) -> Segment:
    """A program with one input, uncut."""
    return Segment(module, (IMAGE,), tuple(node.name for node in _outputs(module)))


def cut(program: GraphModule, cuts: Sequence[Sequence[Node]], kept: Sequence[Node] = ()) -> list[Segment]:
    """Segments 0 … n of `program`: once segment i has run, values `cuts[i]` are replaced; all later readers see that.

    A value is computed as early as it can be. Given to the caller are all values of cuts and `kept`, and the program's
    outputs. Cuts are in an order in which they can be made. Raises `QsearchError` for a value that would cross a cut
    and has not the size of the image.
    """
    return _Cutter(program, cuts, kept).segments()


def compiled(segment: Segment, threads: int | None = None) -> Executor:
    """Runs a segment on the compiled kernels of this machine."""
    network = HostNetwork(segment.module, threads)
    features = [name for name in segment.inputs if name != IMAGE]

    def run(values: Values) -> dict[str, NDArray[np.uint8]]:
        image = values[IMAGE] if IMAGE in segment.inputs else None
        results = network.run_part(image, {name: values[name] for name in features})
        return dict(zip(segment.outputs, results, strict=True))

    return run


def interpreted(segment: Segment) -> Executor:
    """Runs a segment by the operations themselves: the reference, in PyTorch."""

    def run(values: Values) -> dict[str, NDArray[np.uint8]]:
        inputs = [torch.from_numpy(values[name].copy()).permute(2, 0, 1)[None] for name in segment.inputs]
        with torch.inference_mode():
            found = segment.module(*inputs)
        results = (found,) if isinstance(found, torch.Tensor) else found
        return {
            name: result[0].permute(1, 2, 0).contiguous().numpy()
            for name, result in zip(segment.outputs, results, strict=True)
        }

    return run


def image_run(segment: Segment, execute: Executor) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    """A segment that takes an image and gives one, as a function of images."""
    return lambda image: execute({IMAGE: image})[segment.outputs[0]]


class _Cutter:
    def __init__(self, program: GraphModule, cuts: Sequence[Sequence[Node]], kept: Sequence[Node]) -> None:
        self.program, self.reader = program, Program(program)
        self.cut_at = {value: index for index, values in enumerate(cuts) for value in values}
        self.results = _outputs(program)
        self.given = [*self.results, *kept, *self.cut_at]
        self.level: dict[Node, int] = {}
        """Of every requantized value: the segment that computes it."""
        self.resized: set[Node] = set()
        for node in program.graph.nodes:
            self._note(node)

    def segments(self) -> list[Segment]:
        last = max(self.level.values())
        return [self._segment(index) for index in range(last + 1)]

    def _note(self, node: Node) -> None:
        """Whether a value has the image's size, and where it is computed."""
        sources = node.all_input_nodes
        if any(source in self.resized for source in sources) or self._resizes(node):
            self.resized.add(node)
        if is_call(node, ops.requantize):
            self.level[node] = max(self._seen_at(source) for source in self._sources(node))
            if self.level[node] > self.cut_at.get(node, self.level[node]):
                raise QsearchError(f"node '{node.name}' depends on a value that is replaced later")

    def _resizes(self, node: Node) -> bool:
        if is_call(node, ops.conv_acc):
            call = self.reader.call(node)
            same = [2 * p == k - 1 for p, k in zip(call["padding"], self._kernel(call["weight"]), strict=True)]
            return call["stride"] != 1 or not all(same)
        return is_call(node, ops.pixel_shuffle)

    def _kernel(self, weight: Node) -> tuple[int, ...]:
        return self.reader.array(weight).shape[2:]

    def _sources(self, node: Node) -> list[Node]:
        """The requantized values and images from which a node is computed."""
        found: list[Node] = []
        for source in node.all_input_nodes:
            if is_call(source, ops.requantize) or source.op == "placeholder":
                found.append(source)
            else:
                found += self._sources(source)
        return found

    def _seen_at(self, value: Node) -> int:
        """The first segment whose operations can read a value."""
        return self.cut_at[value] + 1 if value in self.cut_at else self.level.get(value, 0)

    def _segment(self, index: int) -> Segment:
        made = [node for node, level in self.level.items() if level == index]
        outputs = [node for node in self.given if (self._sources(node)[0] if node not in self.level else node) in made]
        outputs += [node for node in made if self._crosses(node)]
        outputs = list(dict.fromkeys(outputs))
        graph, copies, inputs = Graph(), dict[Node, Node](), dict[str, Node]()
        wanted = {source for node in made for source in self._sources(node)}
        for value in (node for node in self.program.graph.nodes if node in wanted):
            if value.op == "placeholder" or value in self.cut_at or self.level[value] < index:
                name = IMAGE if value.op == "placeholder" else self._name(value)
                inputs[name] = copies[value] = self._placeholder(graph, name, value)
        results = [self._copied(graph, node, copies) for node in outputs]
        graph.output(tuple(results))
        graph.lint()
        return Segment(GraphModule(self.program, graph), tuple(inputs), tuple(node.name for node in outputs))

    def _crosses(self, node: Node) -> bool:
        """Whether a later segment reads a value that is not replaced."""
        own = self.level[node]
        return node not in self.cut_at and any(
            node in self._sources(reader) for reader, level in self.level.items() if level > own
        )

    def _name(self, value: Node) -> str:
        return replaced(value.name) if value in self.cut_at else value.name

    def _placeholder(self, graph: Graph, name: str, value: Node) -> Node:
        node = graph.placeholder(name)
        if value.op != "placeholder":
            if value in self.resized:
                raise QsearchError(f"node '{value.name}': a value between segments must have the size of the image")
            _, lo, hi = self.reader.array(self.reader.call(value)["bounds"])[:3].tolist()
            node.meta.update({CHANNELS: self.reader.channels(value), BOUNDS: (lo, hi)})
        return node

    def _copied(self, graph: Graph, node: Node, copies: dict[Node, Node]) -> Node:
        """`node` in the segment's graph, with all that it takes."""
        if node not in copies:
            for source in node.all_input_nodes:
                self._copied(graph, source, copies)
            copies[node] = graph.node_copy(node, copies.__getitem__)
        return copies[node]


def _outputs(program: GraphModule) -> list[Node]:
    returned = next(node for node in program.graph.nodes if node.op == "output").args[0]
    return [returned] if isinstance(returned, Node) else list(returned)
