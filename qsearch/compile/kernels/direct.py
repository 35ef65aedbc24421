"""Direct convolution: a register tile of pixels × channels, fed by broadcast activations.

One task is one row of accumulators. The last tile of a row starts at `width - pixels`, overlaps its neighbour and
writes the same bytes again, so any width works; images narrower than a tile take tiles of one pixel.
"""

import numpy as np
from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import Register, accumulator_size, gather, lanes_of, store, tensor
from qsearch.compile.kernels.epilogue import Epilogue
from qsearch.compile.kernels.isa import Expr, Isa
from qsearch.compile.kernels.layout import Groups, Layout, powers_of_two
from qsearch.compile.specs import ConvSpec


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
        taps = spec.kernel[0] * spec.kernel[1] * spec.in_channels
        self.epilogue = Epilogue(spec, (self.height, self.width), isa.lanes, lanes, lanes * taps)

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
            with T.serial(chunk.subs) as sub, T.serial(chunk.groups) as group, T.serial(tiles) as tile:
                x = T.Bind(T.min(tile * pixels, self.width - pixels))
                self._tile(y, x, pixels, chunk, sub, group)

    def _tile(self, y: Expr, x: Expr, pixels: int, chunk: Groups, sub: Expr, group: Expr) -> None:
        """`pixels` from (y, x) on, for tile (sub, group) of the blocks of `chunk`."""
        lanes, count = self.isa.lanes, chunk.count
        local = T.alloc_buffer((pixels * count * lanes,), "int32", scope="local")
        acc = [[Register(local, (p * count + b) * lanes, lanes) for b in range(count)] for p in range(pixels)]
        for register in (register for per_pixel in acc for register in per_pixel):
            register.store(T.broadcast(T.int32(0), lanes))
        first = self.layout.first_block(chunk, sub, group)
        self._accumulate(y, x, first, acc)
        shift = (sub, group * (count * lanes))
        for b in range(count):
            channels = self.epilogue.channels((first + b) * lanes)
            for p in range(pixels):
                block = chunk.first + b
                skips = [self._load_skip(i, y, x + p, block, shift) for i in range(len(self.spec.skips))]
                for i, (output, value) in enumerate(self.epilogue.finish(acc[p][b].load(), skips, channels)):
                    self._store(i, output.buffer, y, x + p, block, shift, value)

    def _accumulate(self, y: Expr, x: Expr, first: Expr, acc: list[list[Register]]) -> None:
        spec, lanes, count = self.spec, self.isa.lanes, len(acc[0])
        top, left = (spec.in_border - padding for padding in spec.padding)
        # The columns of a kernel row and their channels are contiguous: one loop runs over both.
        steps = spec.kernel[1] * spec.in_channels // 4
        with T.serial(spec.kernel[0]) as ky, T.serial(steps) as step:
            weights = []
            for b in range(count):
                vector = first * (spec.kernel[0] * steps) + (ky * steps + step) * count + b
                weight = self.epilogue.weight.vload([vector * (lanes * 4)], f"int8x{lanes * 4}")
                weights.append([T.Bind(operand) for operand in self.isa.prepare_weight(weight)])
            for p, per_pixel in enumerate(acc):
                place = [y * spec.stride + ky + top, (x + p) * spec.stride + left, step * 4]
                four = T.Bind(T.reinterpret(self.source.vload(place, "uint8x4"), dtype="int32"))
                activation = [T.Bind(a) for a in self.isa.prepare_activation(T.broadcast(four, lanes))]
                for register, weight_operands in zip(per_pixel, weights, strict=True):
                    register.store(self.isa.dot(register.load(), activation, weight_operands))

    def _load_skip(self, index: int, y: Expr, x: Expr, block: int, shift: tuple[Expr, Expr]) -> Expr:
        """The operands of the lanes of `block`, `shift` = (sub-pixels, channels) further on."""
        spec, buffer, lanes = self.spec.skips[index], self.epilogue.skips[index], self.isa.lanes
        sources = self.layout.skip_channels(index, block)
        place = [y + spec.border, x + spec.border]
        if sources == list(range(sources[0], sources[0] + lanes)) and sources[-1] < spec.channels:
            return buffer.vload([*place, sources[0] + shift[1]], f"uint8x{lanes}")
        quads = sorted({source // 4 for source in sources})
        loaded = [buffer.vload([*place, quad * 4], "uint8x4") for quad in quads]
        return gather(loaded, 4, [quads.index(source // 4) * 4 + source % 4 for source in sources])

    def _store(
        self, index: int, buffer: Expr, y: Expr, x: Expr, block: int, shift: tuple[Expr, Expr], value: Expr
    ) -> None:
        """Stores the lanes of `block`, `shift` = (sub-pixels, channels) further on."""
        border, r, lanes = self.spec.outputs[index].border, self.spec.shuffle, self.isa.lanes
        sub, channel = shift
        for run in self.layout.runs(index, block):
            row = y * r + (run.row + sub // r) + border
            column = x * r + sub % r + border
            for offset, size in powers_of_two(run.count, lanes):
                part = value if size == lanes else lanes_of(value, run.lane + offset, size)
                store(buffer, [row, column, channel + run.offset + offset], size, part)


def layout_of(spec: ConvSpec, isa: Isa) -> Layout:
    """The order of output channels in the direct kernel of `spec`."""
    return Layout(spec, isa.lanes, isa.tile)


def lane_order(spec: ConvSpec, isa: Isa) -> list[int | None]:
    """The network's output channel of every lane of the parameters; `None` for padding."""
    return layout_of(spec, isa).order


def pack_weight(spec: ConvSpec, isa: Isa, weight: np.ndarray) -> np.ndarray:
    """int8 weights [out_channels, in_channels, rows, columns] in the order in which the kernel reads them."""
    _, channels, rows, columns = weight.shape
    layout = layout_of(spec, isa)
    rest = np.zeros((1, channels, rows, columns), np.int8)
    lanes = np.concatenate([weight, rest])[[-1 if channel is None else channel for channel in layout.order]]
    parts = []
    for first, count in layout.tiles:
        part = lanes[first * isa.lanes : (first + count) * isa.lanes]
        split = part.reshape(count, isa.lanes, channels // 4, 4, rows, columns)
        parts.append(split.transpose(4, 5, 2, 0, 1, 3).ravel())
    return np.concatenate(parts)
