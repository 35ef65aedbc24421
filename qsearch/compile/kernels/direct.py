"""Direct convolution: a register tile of pixels × channels, fed by broadcast activations.

One task is one row of accumulators. The last tile of a row starts at `width - pixels`, overlaps its neighbour and
writes the same bytes again, so any width works; images narrower than a tile take tiles of one pixel.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import Register, accumulator_size, tensor
from qsearch.compile.kernels.epilogue import Channels, Epilogue
from qsearch.compile.kernels.finish import Finish
from qsearch.compile.kernels.isa import Expr, Isa
from qsearch.compile.kernels.layout import Groups, Layout
from qsearch.compile.kernels.placement import Place, Placement
from qsearch.compile.packing import Convolution, compensated, dense, epilogue_parameters
from qsearch.compile.specs import ConvSpec

NAME = "direct"

# Sums of a tile that leave registers for requantization; rows of a kernel beyond which this takes no share of the time;
# steps of a row, of one input quad each, that are worth a loop.
_MOST_SUMS, _MOST_PARTS, _FEWEST_STEPS = 16, 3, 8


class Direct:
    """The arguments of one kernel and the statements that use them; made inside a `T.prim_func`."""

    def __init__(self, spec: ConvSpec, isa: Isa) -> None:
        self.spec, self.isa = spec, isa
        self.layout = layout_of(spec, isa)
        self.pixels = self.layout.pixels
        rows, columns = T.int32(), T.int32()
        self.source = tensor("input", (rows, columns, spec.in_channels), "uint8")
        self.height, self.width = accumulator_size(spec, rows, columns)
        lanes = self.layout.blocks * isa.lanes
        self.epilogue = Epilogue(spec, (self.height, self.width), isa.lanes, lanes, lanes * self._lane_bytes())
        self.finish = Finish(isa, self.epilogue, Placement(spec, self.layout, self.epilogue.skips))

    def _lane_bytes(self) -> int:
        """Bytes of weights of every output channel."""
        return self.spec.kernel[0] * self.spec.kernel[1] * self.spec.in_channels // self.spec.groups

    def task(self, y: Expr) -> None:
        """Everything that accumulator row `y` produces."""
        self.epilogue.begin()
        with T.If(self.width >= self.pixels):
            with T.Then():
                self._row(y, self.pixels)
            with T.Else():
                self._row(y, 1)
        self.epilogue.end(y)

    def _row(self, y: Expr, pixels: int) -> None:
        tiles = (self.width + (pixels - 1)) // pixels
        for chunk in self.layout.chunks:
            with T.serial(chunk.subs) as sub, T.serial(chunk.groups) as group:
                if pixels > 1 and self._overlaps(chunk):
                    self._overlapped(y, pixels, tiles, chunk, sub, group)
                else:
                    with T.serial(tiles) as tile:
                        x = T.Bind(T.min(tile * pixels, self.width - pixels))
                        self._tile(y, x, pixels, chunk, sub, group)

    def _overlaps(self, chunk: Groups) -> bool:
        """Whether the tiles of `chunk` leave registers, and their multiplications time, for what `_overlapped` does."""
        spec = self.spec
        steps = self._steps() * (spec.kernel[1] if spec.groups > 1 else 1)
        small = chunk.count > 1 and self.pixels * chunk.count <= _MOST_SUMS
        long = steps >= _FEWEST_STEPS and 1 < spec.kernel[0] <= _MOST_PARTS
        return self.isa.narrowing is not None and small and long and all(skip.repeat == 1 for skip in spec.skips)

    def _overlapped(self, y: Expr, pixels: int, tiles: Expr, chunk: Groups, sub: Expr, group: Expr) -> None:
        """The tiles of one row, each requantized in parts between the rows of the kernel of the next.

        Between the multiplications the rest is nearly free; after them it would wait for the last, and make wait.
        """
        assert self.isa.narrowing is not None
        lanes, count = self.isa.lanes, chunk.count
        size = pixels * count * lanes
        # Two halves by turns, which LLVM cannot tell apart: it would keep both in registers, of which there are not
        # enough.
        sums = T.alloc_buffer((2 * size,), "int32")
        first = self.layout.first_block(chunk, sub, group)
        with T.serial(tiles + 1) as tile:
            x = T.Bind(T.min(tile * pixels, self.width - pixels))
            # What the first tile finds is anything, and is written where the second writes again.
            last = T.Bind(T.max(T.min((tile - 1) * pixels, self.width - pixels), 0))
            more = T.Bind(T.Select(tile < tiles, T.int32(1), T.int32(0)))
            acc = self._zeros(pixels, count)
            before = T.Bind((tile + 1) % 2 * size)
            held = [
                [Register(sums, before + (p * count + b) * lanes, lanes) for b in range(count)] for p in range(pixels)
            ]
            place = Place(y, last, chunk.first, sub, group * (count * lanes))
            channels = [self.epilogue.channels((first + b) * lanes) for b in range(count)]
            together = max(self.isa.narrowing.vectors // count, 1)
            groups = [range(p, min(p + together, pixels)) for p in range(0, pixels, together)]
            rows = self.spec.kernel[0]
            for ky in range(rows):
                self._accumulate(y, x, first, acc, range(ky, ky + 1), more)
                for group_of_pixels in groups[ky::rows]:
                    self._finish(place, held, channels, group_of_pixels)
            for p, per_pixel in enumerate(acc):
                for b, register in enumerate(per_pixel):
                    place = tile % 2 * size + (p * count + b) * lanes
                    Register(sums, place, lanes).store(register.load())

    def _steps(self) -> int:
        """Quads of input channels of one kernel row, or of one tap where a convolution has groups."""
        spec = self.spec
        return spec.in_channels // (4 * spec.groups) * (1 if spec.groups > 1 else spec.kernel[1])

    def _zeros(self, pixels: int, count: int) -> list[list[Register]]:
        """Accumulators of a register tile."""
        lanes = self.isa.lanes
        local = T.alloc_buffer((pixels * count * lanes,), "int32", scope="local")
        acc = [[Register(local, (p * count + b) * lanes, lanes) for b in range(count)] for p in range(pixels)]
        for register in (register for per_pixel in acc for register in per_pixel):
            register.store(T.broadcast(T.int32(0), lanes))
        return acc

    def _tile(self, y: Expr, x: Expr, pixels: int, chunk: Groups, sub: Expr, group: Expr) -> None:
        """`pixels` from (y, x) on, for tile (sub, group) of the blocks of `chunk`."""
        lanes, count = self.isa.lanes, chunk.count
        acc = self._zeros(pixels, count)
        first = self.layout.first_block(chunk, sub, group)
        self._accumulate(y, x, first, acc, range(self.spec.kernel[0]))
        channels = [self.epilogue.channels((first + b) * lanes) for b in range(count)]
        self._finish(Place(y, x, chunk.first, sub, group * (count * lanes)), acc, channels, range(pixels))

    def _finish(self, base: Place, acc: list[list[Register]], channels: list[Channels], pixels: range) -> None:
        """Requantizes and stores the accumulators of `pixels` and all blocks, counted from `base` on."""
        sums = [[register.load() for register in acc[p]] for p in pixels]
        self.finish.store(replace(base, x=base.x + pixels.start), sums, channels)

    def _accumulate(
        self, y: Expr, x: Expr, first: Expr, acc: list[list[Register]], rows: range, times: Expr = 1
    ) -> None:
        """Adds the products of `rows` of the kernel to the tile at (y, x), `times`: 1 or 0."""
        spec, lanes, count = self.spec, self.isa.lanes, len(acc[0])
        top, left = (spec.in_border - padding for padding in spec.padding)
        # The columns of a kernel row and their channels are contiguous: one loop runs over both, but for groups.
        runs = spec.kernel[1] if spec.groups > 1 else 1
        steps = self._steps()
        begin = self.layout.first_channel(first)
        loaded = lanes if self.isa.by_lane else 1

        def multiply(ky: Expr, kx: Expr, step: Expr, quads: int) -> None:
            """Adds the products of `quads` quads of input channels from `step` on."""
            activations = []
            for p in range(len(acc)):
                place = [y * spec.stride + ky + top, (x + p) * spec.stride + left + kx, begin + step * 4]
                activations.append(self._load_activations(place, quads))
            for quad in range(quads):
                weights = []
                for b in range(count):
                    vector = (
                        first * (spec.kernel[0] * runs * steps) + ((ky * runs + kx) * steps + step + quad) * count + b
                    )
                    weight = self.epilogue.weight.vload([vector * (lanes * 4)], f"int8x{lanes * 4}")
                    weights.append([T.Bind(operand) for operand in self.isa.prepare_weight(weight)])
                for per_pixel, activation in zip(acc, activations, strict=True):
                    for register, weight_operands in zip(per_pixel, weights, strict=True):
                        register.store(self.isa.dot(register.load(), activation[quad], weight_operands))

        def row(ky: Expr, kx: Expr) -> None:
            with T.serial(steps // loaded * times) as chunk:
                multiply(ky, kx, chunk * loaded, loaded)
            for step in range(steps // loaded * loaded, steps):
                multiply(ky, kx, step, 1)

        def taps(ky: Expr) -> None:
            if runs == 1:
                row(ky, 0)
            else:
                with T.serial(runs) as kx:
                    row(ky, kx)

        if len(rows) == 1:
            taps(rows.start)
        else:
            with T.serial(len(rows)) as ky:
                taps(ky)

    def _load_activations(self, place: list[Expr], quads: int) -> list[list[Expr]]:
        """The operands of `quads` consecutive quads of bytes, each in all lanes: of one, or as many as lanes."""
        lanes = self.isa.lanes
        if quads == 1:
            four = T.Bind(T.reinterpret(self.source.vload(place, "uint8x4"), dtype="int32"))
            return [[T.Bind(a) for a in self.isa.prepare_activation(T.broadcast(four, lanes))]]
        loaded = T.reinterpret(self.source.vload(place, f"uint8x{4 * lanes}"), dtype=f"int32x{lanes}")
        prepared = [T.Bind(a) for a in self.isa.prepare_activation(loaded)]
        return [[T.Shuffle([operand], [quad] * lanes) for operand in prepared] for quad in range(quads)]


def layout_of(spec: ConvSpec, isa: Isa) -> Layout:
    """The order of output channels in the direct kernel of `spec`, whose algorithm may name a register tile."""
    _, _, tile = spec.algorithm.partition(":")
    if not tile:
        return Layout(spec, isa.lanes, isa.tile)
    pixels, blocks = (int(number) for number in tile.split("x"))
    return Layout(spec, isa.lanes, lambda _: (pixels, blocks))


def in_groups(spec: ConvSpec, isa: Isa, conv: Convolution) -> bool:
    """Whether the groups of `conv` can be computed apart, each from its own input channels."""
    channels, lanes = spec.out_channels // spec.shuffle**2, isa.lanes
    whole = channels % (conv.groups * lanes) == 0 and spec.in_channels == conv.groups * conv.weight.shape[1]
    return conv.groups > 1 and whole and conv.weight.shape[1] % 4 == 0


def forms(spec: ConvSpec, isa: Isa, conv: Convolution) -> list[ConvSpec]:
    """See `Algorithm.forms`."""
    form = replace(spec, algorithm="direct", groups=conv.groups if in_groups(spec, isa, conv) else 1)
    tiles = isa.other_tiles(layout_of(form, isa).group)
    return [form, *(replace(form, algorithm=f"direct:{pixels}x{blocks}") for pixels, blocks in tiles)]


def kernel(spec: ConvSpec, isa: Isa) -> Direct:
    """See `Algorithm.kernel`."""
    return Direct(spec, isa)


@cache
def _order(spec: ConvSpec, isa: Isa) -> tuple[Layout, list[int | None]]:
    layout = layout_of(spec, isa)
    return layout, layout.order


def in_lanes(weight: np.ndarray, order: Sequence[int | None]) -> np.ndarray:
    """The weights [Co, …] of every lane; zeros for one that only pads."""
    padded = np.concatenate([weight, np.zeros_like(weight[:1])])
    return padded[[-1 if channel is None else channel for channel in order]]


def pack(spec: ConvSpec, isa: Isa, conv: Convolution) -> dict[str, np.ndarray]:
    """See `Algorithm.pack`."""
    layout, order = _order(spec, isa)
    weight = conv.weight if spec.groups > 1 else dense(conv.weight, conv.groups, spec.in_channels)
    _, channels, rows, columns = weight.shape
    lanes = in_lanes(weight, order)
    parts = []
    for first, count in layout.tiles:
        part = lanes[first * isa.lanes : (first + count) * isa.lanes]
        split = part.reshape(count, isa.lanes, channels // 4, 4, rows, columns)
        parts.append(split.transpose(4, 5, 2, 0, 1, 3).ravel())
    weight = isa.in_memory(np.concatenate(parts))
    return {"weight": weight, **epilogue_parameters(spec, compensated(conv, isa.offset), order)}
