"""The kernel of exact integer Winograd.

One task is one row of tiles. It transforms the data of some tiles into memory of its own, multiplies them, one block of
output channels and one horizontal position after the other, so that weights and sums stay in the first cache, and
undoes the horizontal transform: the sums are the direct ones times a power of two, which the shift takes back. The last
tiles of a row and the last row of tiles overlap their neighbours and write the same bytes again. Images smaller than
that take single tiles whose data are those of the nearest pixels inside and whose outputs outside are not stored.
"""

from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import accumulator_size, store, tensor
from qsearch.compile.kernels.epilogue import Epilogue
from qsearch.compile.kernels.finish import Finish
from qsearch.compile.kernels.isa import Expr, Isa
from qsearch.compile.kernels.layout import Layout
from qsearch.compile.kernels.placement import Place, Placement
from qsearch.compile.kernels.products import Operands, Products, vertical_of
from qsearch.compile.kernels.transforms import TAPS, Plane
from qsearch.compile.specs import ConvSpec

_LINE = 64
"""Bytes of a cache line."""
_MOST_TILES = 8
"""Of a register tile, so that narrow images waste little."""


def layout_of(spec: ConvSpec, isa: Isa, plane: Plane) -> Layout:
    """The order of output channels; a register tile is tiles × blocks."""
    tiles = isa.paired_tiles
    if plane.vertical is None:
        tiles -= tiles // 4  # measured; rows of taps share their weights

    def tile(blocks: int) -> tuple[int, int]:
        # Few blocks, so that the sums of a task fit into the first cache.
        return (min(2 * tiles, _MOST_TILES), 1) if blocks == 1 else (tiles, 2)

    return Layout(spec, isa.lanes, tile)


@dataclass(frozen=True)
class _Scope:
    """`tiles` that are computed together; `clamped` where some may lie outside."""

    tiles: int
    clamped: bool


class Winograd:
    """The arguments of one kernel and the statements that use them; made inside a `T.prim_func`."""

    def __init__(self, spec: ConvSpec, isa: Isa, plane: Plane) -> None:
        self.spec, self.isa, self.plane = spec, isa, plane
        self.vertical, self.horizontal = vertical_of(plane), plane.horizontal
        self.layout = layout_of(spec, isa, plane)
        self.tile_rows = self.vertical.passes * self.vertical.rows
        # Channels of one vector of data, and from one transformed value to the next.
        self.width = 1 << (min(spec.in_channels, isa.lanes * 4).bit_length() - 1)
        self.pitch = -(-spec.in_channels // self.width) * self.width
        rows, columns = T.int32(), T.int32()
        self.source, self.size = tensor("input", (rows, columns, spec.in_channels), "uint8"), (rows, columns)
        self.rows, self.columns = accumulator_size(spec, rows, columns)
        lanes, positions = self.layout.blocks * isa.lanes, self.horizontal.positions
        weight_bytes = positions * self.vertical.weight_rows * spec.in_channels * lanes
        self.epilogue = Epilogue(spec, (self.rows, self.columns), isa.lanes, lanes, weight_bytes)
        self.start = tensor("start", (positions * self.vertical.num_starts * lanes,), "int32")
        self.offset = tensor("offset", (1,), "uint8")
        self.finish = Finish(isa, self.epilogue, Placement(spec, self.layout, self.epilogue.skips))

    @property
    def height(self) -> Expr:
        """The number of tasks."""
        return (self.rows + (self.tile_rows - 1)) // self.tile_rows

    def task(self, y: Expr) -> None:
        """Everything that row `y` of tiles produces."""
        self.epilogue.begin()
        positions, tiles = self.horizontal.positions, self.layout.pixels
        count = max(chunk.count for chunk in self.layout.chunks)
        self.data = T.alloc_buffer((positions * self.vertical.data_rows * tiles * self.pitch,), "uint8")
        self.sums = T.alloc_buffer((tiles * self.vertical.rows * positions * count * self.isa.lanes,), "int32")
        self.shared_offset = T.Bind(self.offset[0])
        first = T.Bind(T.max(T.min(y * self.tile_rows, self.rows - self.tile_rows), 0))
        with T.If(T.And(self.rows >= self.tile_rows, self.columns >= tiles * self.horizontal.outputs)):
            with T.Then():
                self._row(first, _Scope(tiles, clamped=False))
            with T.Else():
                self._row(first, _Scope(1, clamped=True))
        self.epilogue.end(first, T.min(self.rows, self.tile_rows))

    def _row(self, y: Expr, scope: _Scope) -> None:
        width = self.horizontal.outputs
        pixels = scope.tiles * width
        with T.serial((self.columns + (pixels - 1)) // pixels) as step:
            x = T.Bind(step * pixels if scope.clamped else T.min(step * pixels, self.columns - pixels))
            with T.serial(scope.tiles) as tile:
                self._transform(y, x + tile * width, tile, scope)
            for chunk in self.layout.chunks:
                with (
                    T.serial(chunk.subs) as sub,
                    T.serial(chunk.groups) as group,
                    T.serial(self.vertical.passes) as part,
                ):
                    block = self.layout.first_block(chunk, sub, group)
                    with T.serial(self.horizontal.positions) as j:
                        if not scope.clamped:
                            self._prefetch(y, x + pixels, j, pixels)
                        self._products(j, part, block, chunk.count, scope)
                    with T.serial(scope.tiles) as tile, T.serial(self.vertical.rows) as row:
                        channels = group * (chunk.count * self.isa.lanes)
                        top = y + part * self.vertical.rows + row
                        place = Place(top, x + tile * width, chunk.first, sub, channels)
                        self._output(place, tile, row, block, chunk.count, scope)

    def _prefetch(self, y: Expr, x: Expr, j: Expr, pixels: int) -> None:
        """Asks for one of `positions` parts of the data of the next tiles, so that their transform need not wait."""
        part = -(-pixels * self.spec.in_channels // (self.horizontal.positions * _LINE))
        intrinsic = T.llvm_lookup_intrinsic_id("llvm.prefetch.p0")
        read, into_first_cache, data = 0, 3, 1
        # The rows above were read by the task before.
        for row in range(TAPS - 1, self.tile_rows + TAPS - 1):
            with T.serial(part) as line:
                address = T.address_of(self.source[y + row, x, (j * part + line) * _LINE])
                T.evaluate(T.call_llvm_intrin(intrinsic, address, read, into_first_cache, data, dtype="void"))

    def _transform(self, y: Expr, x: Expr, tile: Expr, scope: _Scope) -> None:
        """The transformed data of the tile whose outputs start at (y, x)."""
        channels, size = self.spec.in_channels, self.width
        # The last vector may overlap the one before it.
        with T.serial(-(-channels // size)) as part:
            channel = T.Bind(T.min(part * size, channels - size))
            self._transform_channels(y, x, tile, channel, size, scope)

    def _transform_channels(self, y: Expr, x: Expr, tile: Expr, channel: Expr, size: int, scope: _Scope) -> None:
        top, left = (self.spec.in_border - padding for padding in self.spec.padding)

        def load(a: int, b: int) -> Expr:
            row, column = y + (a + top), x + (b + left)
            if scope.clamped:
                row, column = T.min(row, self.size[0] - 1), T.min(column, self.size[1] - 1)
            return T.Bind(self.source.vload([row, column, channel], f"uint8x{size}"))

        vertical = self.plane.vertical
        columns = [[load(a, b) for a in range(self.tile_rows + TAPS - 1)] for b in range(self.horizontal.inputs)]
        if vertical:
            columns = [[T.Bind(value) for value in vertical.data(column)] for column in columns]
        for i in range(self.vertical.data_rows):
            for j, value in enumerate(self.horizontal.data([column[i] for column in columns])):
                shared = self.plane.coefficients[i if vertical else 0, j] > 0
                offset = self.shared_offset if shared else T.uint8(128)
                vector = (j * self.vertical.data_rows + i) * scope.tiles + tile
                place = [vector * self.pitch + channel]
                store(self.data, place, size, value + T.broadcast(offset, size))

    def _products(self, j: Expr, part: Expr, block: Expr, count: int, scope: _Scope) -> None:
        vertical, positions = self.vertical, self.horizontal.positions
        per_position = vertical.weight_rows * (self.spec.in_channels // 4)
        operands = Operands(
            data=self.data,
            pitch=self.pitch,
            sums=self.sums,
            weight=self.epilogue.weight,
            start=self.start,
            j=j,
            first_row=part * vertical.rows,
            first_weight=block * (positions * per_position) + j * (per_position * count),
            first_start=block * (positions * vertical.num_starts) + j * (vertical.num_starts * count),
        )
        vertical.emit(Products(self.isa, vertical, self.spec.in_channels, positions, scope.tiles, count, operands))

    def _output(self, place: Place, tile: Expr, row: Expr, block: Expr, count: int, scope: _Scope) -> None:
        """The outputs of row `row` of a tile, from `place` on."""
        channels = [self.epilogue.channels((block + b) * self.isa.lanes) for b in range(count)]
        by_block = [self._multiples(tile, row, b, count) for b in range(count)]
        sums = [list(pixel) for pixel in zip(*by_block, strict=True)]
        if not scope.clamped:
            self.finish.store(place, sums, channels)
            return
        for c, pixel in enumerate(sums):
            with T.If(T.And(place.y < self.rows, place.x + c < self.columns)), T.Then():
                self.finish.store(replace(place, x=place.x + c), [pixel], channels)

    def _multiples(self, tile: Expr, row: Expr, b: int, count: int) -> list[Expr]:
        """The sums of the direct convolution times a power of two, for one row of a tile and block `b`."""
        lanes, positions = self.isa.lanes, self.horizontal.positions
        first = (tile * self.vertical.rows + row) * positions
        products = [
            T.Bind(self.sums.vload([((first + j) * count + b) * lanes], f"int32x{lanes}")) for j in range(positions)
        ]
        return [T.Bind(multiple) for multiple in self.horizontal.sums(products)]
