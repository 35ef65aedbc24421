"""Random integer programs with everything that the operations allow, for tests that compare executors byte for byte."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn
from torch.fx import Graph, GraphModule, Node

from qsearch.integer import ops


@dataclass(frozen=True)
class Layer:
    """One convolution with its epilogue; `channels` are those after the pixel shuffle.

    `groups` are as many as the channels allow, 0 for the most; `joins` earlier values that fit are joined to the input.
    Weights have `weight_bits` (one: −1 and 1), outputs a span of `bits`; a `piecewise` quantizer leaves some of the
    span's values out.
    """

    channels: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    same: bool = True
    groups: int = 1
    joins: int = 0
    skips: int = 0
    prelu: bool = False
    quantizers: int = 1
    shuffle: int = 1
    piecewise: bool = False
    bits: int = 8
    weight_bits: int = 8


@dataclass(frozen=True)
class _Value:
    """A uint8 tensor of the program; values of equal `history` have equal sizes for every image."""

    node: Node
    channels: int
    pad: tuple[int, ...]
    """The zero point of every channel."""
    history: tuple[tuple[int, ...], ...] = ()


@dataclass
class _Builder:
    """Appends operations with random parameters to a graph."""

    rng: np.random.Generator
    module: nn.Module = field(default_factory=nn.Module)
    graph: Graph = field(default_factory=Graph)
    count: int = 0

    def buffer(self, values: np.ndarray) -> Node:
        name = f"p{self.count}"
        self.count += 1
        self.module.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)))
        return self.graph.get_attr(name)

    def accumulate(self, layer: Layer, source: _Value, skips: Sequence[Node]) -> tuple[Node, float]:
        """The accumulator of a layer, and the typical size of its values."""
        rng, outputs = self.rng, layer.channels * layer.shuffle**2
        groups = int(np.gcd.reduce([source.channels, outputs, layer.groups]))
        taps = source.channels // groups * layer.kernel[0] * layer.kernel[1]
        headroom = int(np.log2(2**29 / (255 * 128 * taps)))
        shift = rng.integers(0, min(15, headroom) + 1, outputs).astype(np.int32)
        typical = np.sqrt(taps) * 8000.0 * 2.0**shift
        padding = (layer.kernel[0] // 2, layer.kernel[1] // 2) if layer.same else (0, 0)
        acc = self.graph.call_function(
            ops.conv_acc,
            (
                source.node,
                self.buffer(self._weights(layer, (outputs, source.channels // groups, *layer.kernel))),
                self.buffer((rng.uniform(-1, 1, outputs) * typical).astype(np.int32)),
                self.buffer(shift),
                self.buffer(np.array(source.pad, np.uint8)),
            ),
            {"stride": layer.stride, "padding": padding, "groups": groups},
        )
        for skip in skips:
            k = (rng.uniform(-1, 1, outputs) * typical / 100).astype(np.int32)
            acc = self.graph.call_function(ops.add_skip, (acc, skip, self.buffer(k)))
        self.typical = typical
        return acc, float(typical.max())

    def _weights(self, layer: Layer, shape: tuple[int, ...]) -> np.ndarray:
        most = 2 ** (layer.weight_bits - 1)
        if layer.weight_bits == 1:
            return self.rng.choice(np.array([-1, 1], np.int8), shape)
        return self.rng.integers(-most, most, shape, np.int8)

    def requantize(self, acc: Node, layer: Layer) -> tuple[Node, int]:
        """A quantizer of `acc`, and its zero point."""
        rng, outputs = self.rng, len(self.typical)
        lo = int(rng.integers(0, 100))
        hi = int(rng.integers(lo + 1, 256)) if layer.bits == 8 else lo + 2**layer.bits - 1
        zero_point = int(rng.integers(lo, hi + 1))
        m = (100 / self.typical * rng.uniform(0.3, 2, outputs)).astype(np.float32)
        # Powers of two give exact halves, which must be rounded to even.
        exact = rng.random(outputs) < 0.5
        m[exact] = 2.0 ** np.round(np.log2(m[exact]))
        m_neg = m * rng.uniform(-0.5, 1.0, outputs).astype(np.float32) if layer.prelu else m
        bounds = np.array([zero_point, lo, hi, *(_pieces(rng, lo, hi) if layer.piecewise else ())], np.int32)
        arguments = (acc, self.buffer(m), self.buffer(m_neg), self.buffer(bounds))
        return self.graph.call_function(ops.requantize, arguments, {"prelu": layer.prelu}), zero_point


def _pieces(rng: np.random.Generator, lo: int, hi: int) -> list[int]:
    """Breakpoints and a ratio such that `lo` and `hi` lie on the outer grid."""
    ratio = int(rng.integers(1, hi - lo + 1))
    below = int(rng.integers(0, (hi - lo) // ratio + 1))
    above = int(rng.integers(0, (hi - lo) // ratio - below + 1))
    return [lo + below * ratio, hi - above * ratio, ratio]


def build_program(layers: Sequence[Layer], seed: int) -> GraphModule:
    """The program of a chain of layers with random parameters; skip operands come from earlier values that fit."""
    builder = _Builder(np.random.default_rng(seed))
    values = [_Value(builder.graph.placeholder("image"), 3, (0,) * 3)]
    source = values[0]
    for layer in layers:
        if layer.joins:
            source = _joined(builder, source, [value for value in values if value is not source], layer.joins)
            values += [source] if source not in values else []
        resized = (layer.stride, *(() if layer.same else layer.kernel))
        size = source.history + ((resized,) if resized != (1,) else ())
        outputs = layer.channels * layer.shuffle**2
        skips = [node for value in values for node in _as_skip(builder, value, outputs, size)]
        builder.rng.shuffle(skips)
        acc, _ = builder.accumulate(layer, source, skips[: layer.skips])
        made = []
        for _ in range(layer.quantizers):
            node, zero_point = builder.requantize(acc, layer)
            history = size
            if layer.shuffle > 1:
                node = builder.graph.call_function(ops.pixel_shuffle, (node, layer.shuffle))
                history = (*size, (0, layer.shuffle))
            made.append(_Value(node, layer.channels, (zero_point,) * layer.channels, history))
        source = made[0]
        values += made
    builder.graph.output(source.node)
    builder.graph.eliminate_dead_code()
    return GraphModule(builder.module, builder.graph)


def _joined(builder: _Builder, source: _Value, others: Sequence[_Value], count: int) -> _Value:
    """`source` behind at most `count` of `others` that have its size; the image cannot be joined."""
    fitting = [value for value in others if value.history == source.history and value.node.op != "placeholder"]
    chosen = [fitting[i] for i in builder.rng.permutation(len(fitting))[:count]]
    if source.node.op == "placeholder" or not chosen:
        return source
    parts = [*chosen, source]
    node = builder.graph.call_function(ops.concat, ([part.node for part in parts],))
    pad = tuple(value for part in parts for value in part.pad)
    return _Value(node, len(pad), pad, source.history)


def _as_skip(builder: _Builder, value: _Value, channels: int, history: tuple[tuple[int, ...], ...]) -> list[Node]:
    if value.history != history or channels % value.channels:
        return []
    if value.channels == channels:
        return [value.node]
    return [builder.graph.call_function(ops.repeat_channels, (value.node, channels // value.channels))]


def layers(resizing: bool = True, grouped: bool = True) -> st.SearchStrategy[list[Layer]]:
    """Chains of layers that end in an image of 3 channels; `resizing` allows strides and unpadded convolutions."""
    body = st.builds(
        Layer,
        channels=st.one_of(st.integers(1, 70), st.sampled_from([12, 16, 28, 32, 64])),
        kernel=st.sampled_from([(3, 3), (3, 3), (1, 1), (5, 5), (1, 3), (3, 1)]),
        stride=st.sampled_from([1, 1, 1, 2]) if resizing else st.just(1),
        same=st.sampled_from([True, True, True, False]) if resizing else st.just(True),
        groups=st.sampled_from([1, 1, 1, 0, 2, 4]) if grouped else st.just(1),
        joins=st.sampled_from([0, 0, 1, 2]),
        skips=st.integers(0, 2),
        prelu=st.booleans(),
        quantizers=st.integers(1, 3),
        shuffle=st.sampled_from([1, 1, 1, 2, 3]),
        piecewise=st.booleans(),
        bits=st.sampled_from([8, 8, 6, 4, 2]),
        weight_bits=st.sampled_from([8, 8, 6, 4, 2]),
    )
    tail = st.builds(
        Layer,
        channels=st.just(3),
        kernel=st.sampled_from([(3, 3), (3, 3), (1, 1), (5, 3)]),
        skips=st.integers(0, 1),
        prelu=st.booleans(),
        shuffle=st.sampled_from([1, 2, 3, 4]),
    )
    return st.tuples(st.lists(body, max_size=3), tail).map(lambda parts: [*parts[0], parts[1]]).filter(_upscales)


def _upscales(chain: list[Layer]) -> bool:
    """Whether the output is a whole multiple of the input, and not too large for a test."""
    grown = int(np.prod([layer.shuffle for layer in chain]))
    shrunk = int(np.prod([layer.stride for layer in chain]))
    return grown % shrunk == 0 and grown <= 8


def random_program(seed: int) -> GraphModule:
    """A small program of padded stride-1 layers with skips, several quantizers, PReLU and a shuffled image."""
    rng = np.random.default_rng(seed)
    channels = int(rng.choice([3, 8, 12, 16, 28, 32]))
    body = [
        Layer(channels, skips=int(rng.integers(0, 2)), prelu=bool(rng.integers(2)), quantizers=int(rng.integers(1, 3)))
        for _ in range(int(rng.integers(1, 4)))
    ]
    tail = Layer(3, skips=int(rng.integers(0, 2)), shuffle=int(rng.integers(1, 5)))
    return build_program([*body, tail], seed)


def reference(program: GraphModule, image: np.ndarray) -> np.ndarray:
    """The program's output [H, W, C] for `image` [H, W, 3], computed by the operations themselves."""
    with torch.no_grad():
        output = program(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
    return output[0].permute(1, 2, 0).contiguous().numpy()
