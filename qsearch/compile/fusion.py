"""Groups the operations of an integer program into convolutions with their whole epilogue."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import GraphModule, Node

from qsearch.errors import QsearchError
from qsearch.integer import ops
from qsearch.integer.storage import CHANNELS, LEVELS

IMAGE_CHANNELS = 3


@dataclass(frozen=True)
class Call:
    """A call_function node with its arguments by name."""

    node: Node
    arguments: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


@dataclass(frozen=True)
class FusedOutput:
    """One requantization of an accumulator, and the node whose value is stored (a pixel shuffle, or itself).

    Where pixels have levels it is the node of all levels instead of itself.
    """

    requantize: Call
    value: Node


@dataclass(frozen=True)
class Fused:
    """A convolution, the skip operands added to it, and its outputs, which share the pixel shuffle factor."""

    name: str
    conv: Call
    skips: tuple[Call, ...]
    outputs: tuple[FusedOutput, ...]
    shuffle: int
    level: int | None = None
    """The level whose pixels it computes; None for all."""


class Program:
    """Reads the nodes of an integer program; every refusal names the node."""

    def __init__(self, module: GraphModule) -> None:
        self.module = module
        placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
        images = [node for node in placeholders if not {CHANNELS, LEVELS} & node.meta.keys()]
        if len(images) > 1 or not placeholders:
            raise QsearchError(f"the integer program has {len(images)} images as inputs; kernels take one")
        self.image: Node | None = images[0] if images else None
        self.features = tuple(node for node in placeholders if CHANNELS in node.meta)
        """Inputs that are features, not the image."""
        self.levels = max((node.meta.get(LEVELS, 0) for node in placeholders), default=0)
        """How many levels pixels have; 0 where they have none."""
        returned = next(node for node in module.graph.nodes if node.op == "output").args[0]
        self.results: tuple[Node, ...] = (returned,) if isinstance(returned, Node) else tuple(returned)
        if not self.results or not all(isinstance(node, Node) for node in self.results):
            raise QsearchError("the integer program must return one tensor, or a tuple of them")
        for node in module.graph.nodes:
            if node.op == "call_function" and node.target not in ops.OPERATIONS:
                raise QsearchError(f"node '{node.name}': no kernel for operation '{node.target}'")
            if node.op in ("call_module", "call_method"):
                raise QsearchError(f"node '{node.name}': no kernel for {node.op} '{node.target}'")

    def call(self, node: Node) -> Call:
        """`node` with its arguments bound to the operation's parameter names, defaults filled in."""
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
        bound.apply_defaults()
        return Call(node, dict(bound.arguments))

    def array(self, node: Node) -> np.ndarray:
        """The values of a get_attr node."""
        value: Any = self.module
        if node.op != "get_attr":
            raise QsearchError(f"node '{node.name}': parameters of kernels must be buffers of the program")
        for part in str(node.target).split("."):
            value = getattr(value, part)
        if not isinstance(value, Tensor):
            raise QsearchError(f"node '{node.name}': parameters of kernels must be buffers of the program")
        return value.detach().cpu().numpy()

    def channels(self, node: Node) -> int:
        """Channels of the value of `node`."""
        if node.op == "placeholder":
            return int(node.meta.get(CHANNELS, IMAGE_CHANNELS))
        call = self.call(node)
        if is_call(node, ops.conv_acc):
            return len(self.array(call["weight"]))
        if is_call(node, ops.concat):
            return sum(map(self.channels, call["tensors"]))
        if is_call(node, ops.by_level):
            return self.channels(call["tensors"][0])
        source = self.channels(node.args[0])  # type: ignore[arg-type]
        if is_call(node, ops.pixel_shuffle):
            return source // int(call["r"]) ** 2
        return source * int(call["n"]) if is_call(node, ops.repeat_channels) else source

    def places(self, value: Node) -> list[tuple[Node, int]]:
        """The concatenations that hold `value`, directly or in one another, and the channels at which it begins there.

        Only those that something else than a concatenation reads.
        """
        found = []
        for concat in value.users:
            if not is_call(concat, ops.concat):
                continue
            first = 0
            for operand in self.call(concat)["tensors"]:
                if operand is value:
                    found += [(concat, first)] if any(not is_call(u, ops.concat) for u in concat.users) else []
                    found += [(outer, start + first) for outer, start in self.places(concat)]
                first += self.channels(operand)
        return found

    def fused(self) -> list[Fused]:
        """All fused convolutions in an order in which they can run."""
        result: list[Fused] = []
        for node in self.module.graph.nodes:
            if is_call(node, ops.conv_acc, ops.add_skip):
                outputs = [output for user in node.users for output in self._stored(user)]
                for shuffle in sorted({r for r, _ in outputs}):
                    same = tuple(output for r, output in outputs if r == shuffle)
                    conv, skips = self._accumulation(node)
                    # A convolution whose values are stored before and after a skip operand makes two steps.
                    taken = {fused.name for fused in result}
                    name = next(n for n in _names(conv.node.name) if n not in taken)
                    result.append(Fused(name, conv, skips, same, shuffle, self._level(same[0])))
        return result

    def _accumulation(self, node: Node) -> tuple[Call, tuple[Call, ...]]:
        skips: list[Call] = []
        while is_call(node, ops.add_skip):
            skips.insert(0, self.call(node))
            node = skips[0]["acc"]
        if not is_call(node, ops.conv_acc):
            raise QsearchError(f"node '{node.name}': skip operands can only be added to a convolution's accumulator")
        return self.call(node), tuple(skips)

    def _level(self, output: FusedOutput) -> int | None:
        """The level of what is requantized, by its place among those of all levels."""
        node = output.requantize.node
        joined = next((reader for reader in node.users if is_call(reader, ops.by_level)), None)
        return None if joined is None else list(self.call(joined)["tensors"]).index(node)

    def _stored(self, user: Node) -> list[tuple[int, FusedOutput]]:
        """The values that requantization `user` of an accumulator stores, each with its pixel shuffle factor."""
        if is_call(user, ops.add_skip):
            return []
        if not is_call(user, ops.requantize):
            raise QsearchError(f"node '{user.name}': an accumulator can only be requantized or take a skip operand")
        requantize = self.call(user)
        stored = []
        value = next((reader for reader in user.users if is_call(reader, ops.by_level)), user)
        shuffles = [reader for reader in value.users if is_call(reader, ops.pixel_shuffle)]
        if len(shuffles) < len(value.users):
            stored.append((1, FusedOutput(requantize, value)))
        stored += [(int(self.call(node)["r"]), FusedOutput(requantize, node)) for node in shuffles if node.users]
        return stored


def _names(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{index}" for index in count(1))


def is_call(node: Any, *operations: Callable[..., Any]) -> bool:
    """Whether `node` is a call of one of `operations`."""
    return isinstance(node, Node) and node.op == "call_function" and node.target in operations


def readers(node: Node) -> Sequence[Node]:
    """The nodes that read the value of `node`, seeing through `repeat_channels`."""
    found: list[Node] = []
    for user in node.users:
        found.extend(readers(user) if is_call(user, ops.repeat_channels) else [user])
    return found
