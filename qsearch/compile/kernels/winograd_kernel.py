"""The kernel of exact integer Winograd.

One task is one row of tiles. It transforms the data of some tiles into memory of its own, multiplies them, one block of
output channels and one horizontal position after the other, so that weights and sums stay in the first cache, and
undoes the horizontal transform: the sums are the direct ones times a power of two, which the shift takes back. The
last tiles of a row and the last row of tiles overlap their neighbours and write the same bytes again. In smaller
images, tiles take the data of the nearest pixels inside, from a copy, and do not store their outputs outside; that
path shares the products, so that it adds little code.
"""

from dataclasses import replace

from tvm.ir import PointerType, PrimType
from tvm.tirx import IntImm
from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import accumulator_size, likely, store, tensor
from qsearch.compile.kernels.epilogue import Channels, Epilogue
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
        # There is one offset, but LLVM does not know it, and leaves loops of `once` times so many rounds as they are.
        self.once = T.int32()
        self.offset = tensor("offset", (self.once,), "uint8")
        self.finish = Finish(isa, self.epilogue, Placement(spec, self.layout, self.epilogue.skips))

    @property
    def height(self) -> Expr:
        """The number of tasks."""
        return (self.rows + (self.tile_rows - 1)) // self.tile_rows

    def task(self, y: Expr) -> None:
        """Everything that row `y` of tiles produces."""
        positions, tiles = self.horizontal.positions, self.layout.pixels
        count = max(chunk.count for chunk in self.layout.chunks)
        self.data = T.alloc_buffer((positions * self.vertical.data_rows * tiles * self.pitch,), "uint8")
        self.sums = T.alloc_buffer((tiles * self.vertical.rows * positions * count * self.isa.lanes,), "int32")
        self.patch = T.alloc_buffer((self._patch_rows * self._patch_columns * self.spec.in_channels,), "uint8")
        self.multiples = T.alloc_buffer((self.horizontal.outputs * count * self.isa.lanes,), "int32")
        self.shared_offset = T.Bind(self.offset[0])
        first = T.Bind(T.max(T.min(y * self.tile_rows, self.rows - self.tile_rows), 0))
        self.whole = T.Bind(T.And(self.rows >= self.tile_rows, self.columns >= tiles * self.horizontal.outputs))
        self._row(first)
        self.epilogue.end(first, T.min(self.rows, self.tile_rows))

    @property
    def _patch_rows(self) -> int:
        return self.tile_rows + TAPS - 1

    @property
    def _patch_columns(self) -> int:
        return self.horizontal.inputs

    def _row(self, y: Expr) -> None:
        tiles, width = self.layout.pixels, self.horizontal.outputs
        pixels = tiles * width
        with T.serial((self.columns + (pixels - 1)) // pixels) as step:
            x = T.Bind(T.Select(self.whole, T.min(step * pixels, self.columns - pixels), step * pixels))
            with T.serial(tiles) as tile:
                self._transform(y, x + tile * width, tile)
            for chunk in self.layout.chunks:
                with (
                    T.serial(chunk.subs) as sub,
                    T.serial(chunk.groups) as group,
                    T.serial(self.vertical.passes) as part,
                ):
                    block = self.layout.first_block(chunk, sub, group)
                    with T.serial(self.horizontal.positions) as j:
                        self._prefetch(y, x + pixels, j, pixels)
                        self._products(j, part, block, chunk.count)
                    with T.serial(tiles) as tile, T.serial(self.vertical.rows) as row:
                        channels = group * (chunk.count * self.isa.lanes)
                        top = y + part * self.vertical.rows + row
                        place = Place(top, x + tile * width, chunk.first, sub, channels)
                        self._output(place, tile, row, block, chunk.count)

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

    def _transform(self, y: Expr, x: Expr, tile: Expr) -> None:
        """The transformed data of the tile whose outputs start at (y, x)."""
        channels, size = self.spec.in_channels, self.width
        top, left = (self.spec.in_border - padding for padding in self.spec.padding)
        with T.If(likely(self.whole)):
            with T.Then():
                T.evaluate(0)
            with T.Else():
                self._copy_patch(y + top, x + left)
        data, pitch = self._tile_data(T.address_of(self.source[y + top, x + left, 0]))
        # The last vector may overlap the one before it.
        with T.serial(-(-channels // size)) as part:
            channel = T.Bind(T.min(part * size, channels - size))
            self._transform_channels(data, pitch, tile, channel)

    def _tile_data(self, inside: Expr) -> tuple[Expr, Expr]:
        """The data of one tile, at address `inside` or in the patch, and the bytes from one of its rows to the next."""
        channels = self.spec.in_channels
        # As numbers, of which one can be selected; alike code then reads both.
        places = [T.reinterpret(address, dtype="int64") for address in (inside, T.address_of(self.patch[0]))]
        place = T.reinterpret(T.Select(self.whole, *places), dtype=PointerType(PrimType("uint8")))
        pitch = T.Bind(T.Select(self.whole, self.size[1], T.int32(self._patch_columns)) * channels)
        shape = (pitch * (self._patch_rows - 1) + self._patch_columns * channels,)
        return T.decl_buffer(shape, "uint8", data=T.Bind(place), align=1), pitch

    def _copy_patch(self, y: Expr, x: Expr) -> None:
        """Copies the data of one tile from (y, x) on; where those lie outside, those of the nearest pixels inside."""
        channels = self.spec.in_channels
        # Not a store: TVM tells LLVM that nothing which is stored in `patch` is read as the data of a tile.
        copy = T.llvm_lookup_intrinsic_id("llvm.memcpy.inline.p0.p0.i64")
        with T.serial(self._patch_rows * self._patch_columns) as pixel:
            row = T.min(y + pixel // self._patch_columns, self.size[0] - 1)
            column = T.min(x + pixel % self._patch_columns, self.size[1] - 1)
            places = T.address_of(self.patch[pixel * channels]), T.address_of(self.source[row, column, 0])
            T.evaluate(T.call_llvm_intrin(copy, *places, T.int64(channels), IntImm("bool", 0), dtype="void"))

    def _transform_channels(self, data: Expr, pitch: Expr, tile: Expr, channel: Expr) -> None:
        channels, size, vertical = self.spec.in_channels, self.width, self.plane.vertical

        def load(a: int, b: int) -> Expr:
            return T.Bind(data.vload([pitch * a + (channel + b * channels)], f"uint8x{size}"))

        columns = [[load(a, b) for a in range(self._patch_rows)] for b in range(self.horizontal.inputs)]
        if vertical:
            columns = [[T.Bind(value) for value in vertical.data(column)] for column in columns]
        for i in range(self.vertical.data_rows):
            for j, value in enumerate(self.horizontal.data([column[i] for column in columns])):
                shared = self.plane.coefficients[i if vertical else 0, j] > 0
                offset = self.shared_offset if shared else T.uint8(128)
                vector = (j * self.vertical.data_rows + i) * self.layout.pixels + tile
                place = [vector * self.pitch + channel]
                store(self.data, place, size, value + T.broadcast(offset, size))

    def _products(self, j: Expr, part: Expr, block: Expr, count: int) -> None:
        vertical, positions = self.vertical, self.horizontal.positions
        per_position = vertical.weight_rows * (self.spec.in_channels // 4)
        operands = Operands(
            data=self.data,
            pitch=self.pitch,
            sums=self.sums,
            weight=self.epilogue.weight,
            start=self.start,
            once=self.once,
            j=j,
            first_row=part * vertical.rows,
            first_weight=block * (positions * per_position) + j * (per_position * count),
            first_start=block * (positions * vertical.num_starts) + j * (vertical.num_starts * count),
        )
        vertical.emit(
            Products(self.isa, vertical, self.spec.in_channels, positions, self.layout.pixels, count, operands)
        )

    def _output(self, place: Place, tile: Expr, row: Expr, block: Expr, count: int) -> None:
        """The outputs of row `row` of a tile, from `place` on."""
        lanes = self.isa.lanes
        by_block = [self._multiples(tile, row, b, count) for b in range(count)]
        sums = [list(pixel) for pixel in zip(*by_block, strict=True)]
        with T.If(likely(self.whole)):
            # In a branch LLVM leaves the parameters where they are used, and registers to the products.
            with T.Then():
                self.finish.store(place, sums, self._channels(block, count))
            with T.Else(), T.If(place.y < self.rows), T.Then():
                for c, pixel in enumerate(sums):
                    for b, vector in enumerate(pixel):
                        store(self.multiples, [(c * count + b) * lanes], lanes, vector)
                with T.serial(T.max(T.min(self.columns - place.x, self.once * self.horizontal.outputs), 0)) as c:
                    kept = [self.multiples.vload([(c * count + b) * lanes], f"int32x{lanes}") for b in range(count)]
                    pixel = [T.Bind(vector) for vector in kept]
                    self.finish.store(replace(place, x=place.x + c), [pixel], self._channels(block, count))

    def _channels(self, block: Expr, count: int) -> list[Channels]:
        self.epilogue.begin()
        return [self.epilogue.channels((block + b) * self.isa.lanes) for b in range(count)]

    def _multiples(self, tile: Expr, row: Expr, b: int, count: int) -> list[Expr]:
        """The sums of the direct convolution times a power of two, for one row of a tile and block `b`."""
        lanes, positions = self.isa.lanes, self.horizontal.positions
        first = (tile * self.vertical.rows + row) * positions
        products = [
            T.Bind(self.sums.vload([((first + j) * count + b) * lanes], f"int32x{lanes}")) for j in range(positions)
        ]
        return [T.Bind(multiple) for multiple in self.horizontal.sums(products)]
