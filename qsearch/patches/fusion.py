"""RefER's fusion as an integer program: the repaired codes for every reader of a query's feature."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import Graph, GraphModule, Node

from qsearch.integer import ops
from qsearch.integer.storage import BOUNDS, CHANNELS
from qsearch.patches.conv8 import TOP, Conv8
from qsearch.patches.segments import Segment
from qsearch.quant.grid import Grid

QUERY, WARPED, BASE = "query", "warped", "base"
LEAST_STEP = 2.0**-20
"""Of a weight, so that the factor of the residual operand is at most 2²⁰."""
SKIP_PRECISION, BIAS_PRECISION = 2**16, 2**8
"""As in lowering: smallest factor of the residual operand, and units of the sum in a step of a reader."""
MAX_SHIFT, ACCUMULATOR_LIMIT = 15, 2**30
FEWEST_LEVELS = 128
"""Of a reader's grid that can carry the residual."""
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Fusion:
    """query + convolution of (query, warped), on the grids of all readers, from one accumulator.

    The residual operand `base` is the finest 8-bit code of the query: that of reader number `carrier`, or the codes
    on RefER's own grid where no reader has a finer one (None). A reader's code is what its quantizer made of the query
    without RefER wherever the fusion does not move the base's code to another one: a fusion of zeros changes nothing.
    """

    segment: Segment
    """`query`, `warped` and, with a carrier, `base` to one value for each reader."""
    carrier: int | None
    unmoved: tuple[Codes | None, ...]
    """[C, 256] for each reader: its code of each base code without fusion; None for the carrier."""

    @staticmethod
    def of(fuse: Conv8, own: Grid, readers: Sequence[Grid]) -> "Fusion":
        """From the trained convolution, RefER's grid, and those of the readers."""
        carrier = _carrier(own, readers)
        base = own if carrier is None else readers[carrier]
        numbers = _Numbers.of(fuse, own, base, readers)
        zero = np.arange(256) - base.zero_point
        sums = torch.from_numpy((zero * numbers.k[:, None]).astype(np.int32))[None, :, None]
        unmoved: list[Codes | None] = []
        for index, grid in enumerate(readers):
            m, bounds = torch.from_numpy(numbers.m[index]), torch.tensor(grid.bounds, dtype=torch.int32)
            unmoved.append(None if index == carrier else ops.requantize(sums, m, m, bounds)[0, :, 0].numpy())
        return Fusion(_segment(numbers, own, readers, carrier), carrier, tuple(unmoved))

    @property
    def kernel(self) -> int:
        """The side of the convolution's kernel."""
        return int(self.segment.module.get_buffer("weight").shape[2])

    def inputs(self, query: Codes, warped: Codes, known: Sequence[Codes]) -> dict[str, Codes]:
        """What the program takes; `known` are the readers' codes without RefER."""
        values = {QUERY: query, WARPED: warped}
        return values if self.carrier is None else {**values, BASE: known[self.carrier]}

    def results(self, query: Codes, known: Sequence[Codes], fused: Sequence[Codes]) -> list[Codes]:
        """The readers' codes, from those without RefER and what the program gave."""
        base = query if self.carrier is None else known[self.carrier]
        place = np.arange(base.shape[2]) * 256 + base
        return [
            new if unmoved is None else np.where(new == unmoved.ravel()[place], old, new)
            for new, old, unmoved in zip(fused, known, self.unmoved, strict=True)
        ]


@dataclass(frozen=True)
class _Numbers:
    """The parameters of the program; all one per output channel but `weight` int8 [C, 2C, k, k]."""

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    shift: NDArray[np.int32]
    k: NDArray[np.int64]
    m: list[NDArray[np.float32]]

    @staticmethod
    def of(fuse: Conv8, own: Grid, base: Grid, readers: Sequence[Grid]) -> "_Numbers":
        real = fuse.weight.detach().double().numpy()
        assert fuse.bias is not None
        bias = fuse.bias.detach().double().numpy()
        step = np.maximum(np.abs(real).max((1, 2, 3)) / TOP, LEAST_STEP)
        weight = np.rint(real / step[:, None, None, None])
        product = (np.float32(own.scale) * step.astype(np.float32)).astype(np.float64)
        finest = min(grid.scale for grid in readers)
        wanted = np.maximum(product * BIAS_PRECISION / finest, product * SKIP_PRECISION / base.scale)
        largest = 255.0 * (np.abs(weight).sum((1, 2, 3)) + base.scale / product) + np.abs(bias) / product
        room = np.floor(np.log2(ACCUMULATOR_LIMIT / largest))
        shift = np.clip(np.minimum(np.ceil(np.log2(np.maximum(wanted, 1.0))), room), 0, MAX_SHIFT).astype(np.int64)
        unit = product / 2.0**shift
        k = np.rint(base.scale / unit).astype(np.int64)
        most = ACCUMULATOR_LIMIT // 2
        folded = np.clip(np.rint(bias / unit), -most, most).astype(np.int64) - k * base.zero_point
        folded -= own.zero_point * weight.sum((1, 2, 3)).astype(np.int64) << shift
        m = [(unit / np.float64(grid.scale)).astype(np.float32) for grid in readers]
        return _Numbers(weight.astype(np.int8), folded.astype(np.int32), shift.astype(np.int32), k, m)


def _carrier(own: Grid, readers: Sequence[Grid]) -> int | None:
    """The reader with the widest range among the uniform ones of 8 bits that are as fine as RefER's own grid."""
    fine = [
        (grid.span * grid.scale, -index)
        for index, grid in enumerate(readers)
        if grid.pieces is None and grid.span >= FEWEST_LEVELS - 1 and grid.scale <= own.scale
    ]
    return -max(fine)[1] if fine else None


def _segment(numbers: _Numbers, own: Grid, readers: Sequence[Grid], carrier: int | None) -> Segment:
    root, graph, channels = nn.Module(), Graph(), len(numbers.weight)

    def parameter(name: str, values: NDArray[np.generic]) -> Node:
        root.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)))
        return graph.get_attr(name)

    def taken(name: str, grid: Grid) -> Node:
        node = graph.placeholder(name)
        node.meta.update({CHANNELS: channels, BOUNDS: (grid.lo, grid.hi)})
        return node

    query, warped = taken(QUERY, own), taken(WARPED, own)
    base = query if carrier is None else taken(BASE, readers[carrier])
    padding = numbers.weight.shape[2] // 2
    acc = graph.call_function(
        ops.conv_acc,
        (
            graph.call_function(ops.concat, ([query, warped],)),
            parameter("weight", numbers.weight),
            parameter("bias", numbers.bias),
            parameter("shift", numbers.shift),
            parameter("pad", np.full(2 * channels, own.zero_point, np.uint8)),
        ),
        {"padding": (padding, padding)},
    )
    acc = graph.call_function(ops.add_skip, (acc, base, parameter("k", numbers.k.astype(np.int32))))
    outputs = []
    for index, grid in enumerate(readers):
        m, bounds = parameter(f"m{index}", numbers.m[index]), np.array(grid.bounds, np.int32)
        outputs.append(graph.call_function(ops.requantize, (acc, m, m, parameter(f"bounds{index}", bounds))))
    graph.output(tuple(outputs))
    inputs = (QUERY, WARPED) if carrier is None else (QUERY, WARPED, BASE)
    return Segment(GraphModule(root, graph), inputs, tuple(node.name for node in outputs))
