"""The bit-serial kernel: one population count adds 32 channels of one bit for every output channel of a vector.

One task is some rows of accumulators. It packs the bits of a strip of the image, then runs a register tile of
pixels × channels over it as the direct kernel does. The last strip and the last tile overlap their neighbours and write
the same bytes again.
"""

from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import Register, accumulator_size, prefetch, store, tensor
from qsearch.compile.kernels.epilogue import Epilogue
from qsearch.compile.kernels.finish import Finish
from qsearch.compile.kernels.isa import Expr, Isa
from qsearch.compile.kernels.layout import Groups, Layout
from qsearch.compile.kernels.placement import Place, Placement
from qsearch.compile.packing import vector_offsets
from qsearch.compile.specs import ConvSpec

SIGNS = "signs"
"""The end of a form's name in which no weight is zero."""
WORD = 32
"""Bits that are multiplied at once."""
_ROWS, _STRIP = 4, 32
"""Accumulators of a task's strip, down and across: fewer pack more bits twice, more leave the first cache."""


@dataclass(frozen=True)
class BitOrder:
    """The bits of a pixel's channels: vectors of `width` bytes become as many bits; the last may overlap."""

    channels: int

    @property
    def width(self) -> int:
        """Bytes that are packed at once, 16 or 32."""
        return 32 if self.channels % 32 == 0 else 16

    @property
    def offsets(self) -> list[int]:
        """The first channel of every vector."""
        return vector_offsets(self.channels, self.width)

    @property
    def pitch(self) -> int:
        """Bytes from the bits of one pixel to those of the next."""
        return len(self.offsets) * self.width // 8

    def words(self, columns: int) -> int:
        """Words that the bits of `columns` neighbouring pixels fill."""
        return -(-columns * self.pitch * 8 // WORD)


class Bits:
    """The arguments of one kernel and the statements that use them; made inside a `T.prim_func`."""

    def __init__(self, spec: ConvSpec, isa: Isa) -> None:
        self.spec, self.isa = spec, isa
        self.planes, self.masks = planes_of(spec), masks_per_word(spec)
        self.bits = BitOrder(spec.in_channels)
        self.words = self.bits.words(spec.kernel[1])
        rows, columns = T.int32(), T.int32()
        self.source = tensor("input", (rows, columns, spec.in_channels), "uint8")
        self.rows, self.columns = accumulator_size(spec, rows, columns)
        self.layout = layout_of(spec, isa)
        lanes = self.layout.blocks * isa.lanes
        weight_bytes = spec.kernel[0] * self.words * self.masks * lanes * 4
        self.epilogue = Epilogue(spec, (self.rows, self.columns), isa.lanes, lanes, weight_bytes)
        self.lowest = tensor("lowest", (1,), "uint8")
        self.finish = Finish(isa, self.epilogue, Placement(spec, self.layout, self.epilogue.skips))
        self.packed_columns = (_STRIP - 1) * spec.stride + spec.kernel[1]
        # The last word of a row may reach beyond it.
        self.packed_row = self.packed_columns * self.bits.pitch + WORD // 8
        self.packed_plane = ((_ROWS - 1) * spec.stride + spec.kernel[0]) * self.packed_row

    @property
    def height(self) -> Expr:
        """The number of tasks."""
        return (self.rows + (_ROWS - 1)) // _ROWS

    def task(self, y: Expr) -> None:
        """Everything that accumulator rows from 4·`y` on produce."""
        self.epilogue.begin()
        self.packed = T.alloc_buffer((self.planes * self.packed_plane,), "uint8")
        self.least = T.Bind(self.lowest[0])
        first = T.Bind(y * _ROWS)
        count = T.Bind(T.min(self.rows - first, _ROWS))
        with T.If(self.columns >= self.layout.pixels):
            with T.Then():
                self._strips(first, count, self.layout.pixels)
            with T.Else():
                self._strips(first, count, 1)
        self.epilogue.end(first, count)

    def _strips(self, y: Expr, count: Expr, pixels: int) -> None:
        width = T.Bind(T.min(self.columns, _STRIP))
        tiles = (width + (pixels - 1)) // pixels
        with T.serial((self.columns + (width - 1)) // width) as strip:
            left = T.Bind(T.min(strip * width, self.columns - width))
            self._pack(y, left, count, width)
            for chunk in self.layout.chunks:
                with (
                    T.serial(chunk.subs) as sub,
                    T.serial(chunk.groups) as group,
                    T.serial(count) as row,
                    T.serial(tiles) as tile,
                ):
                    x = T.Bind(T.min(tile * pixels, width - pixels))
                    self._prefetch(y + row, left + width + x, pixels)
                    self._tile(Place(y, left, chunk.first, sub, group), chunk, row, x, pixels)

    def _prefetch(self, y: Expr, x: Expr, pixels: int) -> None:
        """What the next strip packs of the lowest row that accumulators (y, x) read: few additions hide its way."""
        spec = self.spec
        top, left = (spec.in_border - padding for padding in spec.padding)
        place = [y * spec.stride + spec.kernel[0] - 1 + top, x * spec.stride + spec.kernel[1] - 1 + left, 0]
        prefetch(self.source, place, pixels * spec.stride * spec.in_channels)

    def _pack(self, y: Expr, x: Expr, rows: Expr, columns: Expr) -> None:
        """The bits of all pixels that `rows` × `columns` accumulators from (y, x) on read."""
        spec, bits = self.spec, self.bits
        top, left = (spec.in_border - padding for padding in spec.padding)
        height, width = (rows - 1) * spec.stride + spec.kernel[0], (columns - 1) * spec.stride + spec.kernel[1]
        with T.serial(height) as row, T.serial(width) as column:
            for index, offset in enumerate(bits.offsets):
                place = [y * spec.stride + row + top, x * spec.stride + column + left, offset]
                values = self.source.vload(place, f"uint8x{bits.width}") - T.broadcast(self.least, bits.width)
                byte = row * self.packed_row + column * bits.pitch + index * (bits.width // 8)
                for plane, word in enumerate(self._planes_of(values)):
                    store(self.packed, [plane * self.packed_plane + byte], bits.width // 8, word)

    def _planes_of(self, values: Expr) -> list[Expr]:
        """The bits of every plane of a vector of bytes, as a vector of bytes."""
        assert self.isa.popcount is not None
        width = self.bits.width
        words = T.Bind(T.reinterpret(values, dtype=f"int32x{width // 4}"))
        found = []
        for plane in range(self.planes):
            # Of a shifted word, the upper bits of its bytes are those of shifted bytes.
            shifted = T.shift_left(words, T.broadcast(T.int32(7 - plane), width // 4))
            upper = self.isa.popcount.upper_bits(T.reinterpret(shifted, dtype=f"int8x{width}"), width)
            found.append(T.reinterpret(T.Bind(upper), dtype=f"uint8x{width // 8}"))
        return found

    def _tile(self, base: Place, chunk: Groups, row: Expr, x: Expr, pixels: int) -> None:
        """`pixels` from (row, x) of the strip at `base` on, for the blocks of one register tile of `chunk`."""
        lanes, count = self.isa.lanes, chunk.count
        block = self.layout.first_block(chunk, base.sub, base.channels)
        local = T.alloc_buffer((pixels * count * lanes,), "int32", scope="local")
        acc = [[Register(local, (p * count + b) * lanes, lanes) for b in range(count)] for p in range(pixels)]
        for register in (register for per_pixel in acc for register in per_pixel):
            register.store(T.broadcast(T.int32(0), lanes))
        for plane in reversed(range(self.planes)):
            self._accumulate(plane, row, x, block, acc)
            if plane:
                for register in (register for per_pixel in acc for register in per_pixel):
                    register.store(register.load() + register.load())
        channels = [self.epilogue.channels((block + b) * lanes) for b in range(count)]
        place = replace(base, y=base.y + row, x=base.x + x, channels=base.channels * (count * lanes))
        self.finish.store(place, [[register.load() for register in per_pixel] for per_pixel in acc], channels)

    def _accumulate(self, plane: int, row: Expr, x: Expr, block: Expr, acc: list[list[Register]]) -> None:
        """Adds the ones that `plane` selects."""
        spec, lanes, count = self.spec, self.isa.lanes, len(acc[0])
        with T.serial(spec.kernel[0]) as ky, T.serial(self.words) as word:
            byte = plane * self.packed_plane + (row * spec.stride + ky) * self.packed_row + word * (WORD // 8)
            vector = block * (spec.kernel[0] * self.words) + (ky * self.words + word) * count
            weights = [self._load_masks(vector + b) for b in range(count)]
            for p, per_pixel in enumerate(acc):
                four = self.packed.vload([byte + (x + p) * (spec.stride * self.bits.pitch)], "uint8x4")
                activation = T.Bind(T.broadcast(T.reinterpret(four, dtype="int32"), lanes))
                for register, (negative, *used) in zip(per_pixel, weights, strict=True):
                    known = T.bitwise_and(activation, used[0]) if used else activation
                    register.store(register.load() + _ones(T.bitwise_xor(known, negative), lanes))

    def _load_masks(self, vector: Expr) -> list[Expr]:
        """The masks of one word of every lane: negative, and used unless all are."""
        lanes = self.isa.lanes
        places = [(vector * self.masks + mask) * (lanes * 4) for mask in range(self.masks)]
        loaded = [self.epilogue.weight.vload([place], f"int8x{lanes * 4}") for place in places]
        return [T.Bind(T.reinterpret(mask, dtype=f"int32x{lanes}")) for mask in loaded]


def _ones(value: Expr, lanes: int) -> Expr:
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.ctpop")
    return T.call_llvm_pure_intrin(intrinsic, value, dtype=f"int32x{lanes}")


def planes_of(spec: ConvSpec) -> int:
    """The bit planes of the activations."""
    return int(spec.algorithm.split(":")[1])


def masks_per_word(spec: ConvSpec) -> int:
    """One tells which weights are negative, another which are not zero, unless all are."""
    return 1 if spec.algorithm.endswith(SIGNS) else 2


def layout_of(spec: ConvSpec, isa: Isa) -> Layout:
    """The order of output channels."""
    return Layout(spec, isa.lanes, isa.tile)
