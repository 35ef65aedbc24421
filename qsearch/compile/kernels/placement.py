"""Where a vector of output channels reads its skip operands, and where its bytes go."""

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import WIDEST, Bordered, gather, lanes_of, store
from qsearch.compile.kernels.isa import Expr
from qsearch.compile.kernels.layout import Layout, powers_of_two
from qsearch.compile.specs import ConvSpec

Lane = Callable[[int, int], int]


@dataclass(frozen=True)
class Place:
    """The lanes of `block` at accumulator (y, x), `sub` sub-pixels and `channels` further on."""

    y: Expr
    x: Expr
    block: int
    sub: Expr
    channels: Expr


@dataclass(frozen=True)
class Placement:
    """The addresses of a kernel whose lanes are ordered by `layout`."""

    spec: ConvSpec
    layout: Layout
    skips: list[Expr]

    def load_skip(self, index: int, place: Place) -> Expr:
        """The uint8 operands of skip `index`."""
        spec, buffer, lanes = self.spec.skips[index], self.skips[index], self.layout.lanes
        sources = self.layout.skip_channels(index, place.block)
        at = [place.y + spec.border, place.x + spec.border]
        if sources == list(range(sources[0], sources[0] + lanes)) and sources[-1] < spec.channels:
            return buffer.vload([*at, sources[0] + place.channels], f"uint8x{lanes}")
        quads = sorted({source // 4 for source in sources})
        loaded = [buffer.vload([*at, quad * 4], "uint8x4") for quad in quads]
        return gather(loaded, 4, [quads.index(source // 4) * 4 + source % 4 for source in sources])

    def store(self, index: int, output: Bordered, place: Place, value: Expr) -> None:
        """Stores the uint8 `value` in output `index`."""
        r, lanes = self.spec.shuffle, self.layout.lanes
        for run in self.layout.runs(index, place.block):
            row = place.y * r + (run.row + place.sub // r) + output.border
            column = place.x * r + place.sub % r + output.border
            for offset, size in powers_of_two(run.count, lanes):
                part = value if size == lanes else lanes_of(value, run.lane + offset, size)
                store(output.buffer, [row, column, place.channels + run.offset + offset], size, part)

    def store_joined(
        self, index: int, output: Bordered, first: Place, vectors: list[tuple[int, int]], value: Expr, lane: Lane
    ) -> None:
        """Stores `value` in output `index`: the bytes of several (pixel, block), both counted from `first` on.

        Lane l of vector v of them is lane `lane(v, l)` of `value`.
        """
        r, pitch = self.spec.shuffle, self.spec.outputs[index].pitch
        rows: dict[int, dict[int, int]] = {}
        for vector, (pixel, block) in enumerate(vectors):
            for run in self.layout.runs(index, first.block + block):
                offsets = rows.setdefault(run.row, {})
                for i in range(run.count):
                    # Bytes of neighbouring pixels are contiguous.
                    offsets[pixel * r * pitch + run.offset + i] = lane(vector, run.lane + i)
        column = first.x * r + first.sub % r + output.border
        for row, offsets in rows.items():
            place = [first.y * r + (row + first.sub // r) + output.border, column]
            for start, lanes in _contiguous(offsets):
                for offset, size in powers_of_two(len(lanes), WIDEST):
                    part = _permuted(value, lanes[offset : offset + size])
                    store(output.buffer, [*place, first.channels + start + offset], size, part)


def _permuted(value: Expr, lanes: list[int]) -> Expr:
    """The bytes `lanes` of `value`, moved as words where they allow it, for which there are better instructions."""
    words = [lane // 4 for lane in lanes[::4]]
    if lanes != [4 * word + i for word in words for i in range(4)]:
        return T.Shuffle([value], lanes)
    wide = T.reinterpret(value, dtype=f"int32x{value.ty.dtype.lanes // 4}")
    return T.reinterpret(T.Shuffle([wide], words), dtype=f"uint8x{len(lanes)}")


def _contiguous(lanes: dict[int, int]) -> list[tuple[int, list[int]]]:
    """The values of `lanes` in the order of their keys, cut where these leave a gap, each with its first key."""
    runs: list[tuple[int, list[int]]] = []
    for offset in sorted(lanes):
        if runs and offset == runs[-1][0] + len(runs[-1][1]):
            runs[-1][1].append(lanes[offset])
        else:
            runs.append((offset, [lanes[offset]]))
    return runs
