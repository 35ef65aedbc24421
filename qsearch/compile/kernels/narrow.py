"""Convolution to few channels (an image): vectors run along the input channels, and are summed up at the end.

The direct kernel would leave most lanes of its one block of output channels empty. Here every accumulator is one
output value, and `lanes` of them, consecutive in the output image, are summed across their lanes into one vector.
"""

import numpy as np
from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import Register, accumulator_size, lanes_of, store, tensor
from qsearch.compile.kernels.epilogue import Epilogue
from qsearch.compile.kernels.isa import Expr, Isa
from qsearch.compile.kernels.layout import powers_of_two
from qsearch.compile.specs import ConvSpec

# Each output channel needs a weight vector in a register.
MOST_CHANNELS = 4


def applies(spec: ConvSpec, isa: Isa) -> bool:
    """Whether this kernel computes `spec` with clearly fewer multiplications than the direct one."""
    plain = not spec.skips and spec.shuffle == 1 and spec.out_channels <= MOST_CHANNELS
    whole = all(output.channels == spec.out_channels for output in spec.outputs)
    row_bytes = spec.kernel[1] * spec.in_channels
    if not (plain and whole and row_bytes >= isa.lanes * 4):
        return False
    here = spec.out_channels * (spec.kernel[0] * len(_chunks(spec, isa)) + 4)
    return here < 0.7 * spec.kernel[0] * row_bytes // 4


class Narrow:
    """The arguments of one kernel and the statements that use them; made inside a `T.prim_func`."""

    def __init__(self, spec: ConvSpec, isa: Isa) -> None:
        self.spec, self.isa = spec, isa
        self.pixels = isa.lanes
        rows, columns = T.int32(), T.int32()
        self.source = tensor("input", (rows, columns, spec.in_channels), "uint8")
        self.height, self.width = accumulator_size(spec, rows, columns)
        self.chunks = _chunks(spec, isa)
        weight_bytes = spec.kernel[0] * len(self.chunks) * spec.out_channels * isa.lanes * 4
        total = len(lane_order(spec, isa))
        self.epilogue = Epilogue(spec, (self.height, self.width), isa.lanes, total, weight_bytes)

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
        values = pixels * self.spec.out_channels
        with T.serial((self.width + (pixels - 1)) // pixels) as tile:
            x = T.Bind(T.min(tile * pixels, self.width - pixels))
            for first in range(0, values, self.isa.lanes):
                self._vector(y, x, first, min(self.isa.lanes, values - first))

    def _vector(self, y: Expr, x: Expr, first: int, count: int) -> None:
        """Output values `first` to `first + count` of the pixels from (y, x) on."""
        lanes, outputs = self.isa.lanes, self.spec.out_channels
        local = T.alloc_buffer((count * lanes,), "int32", scope="local")
        acc = {value: Register(local, (value - first) * lanes, lanes) for value in range(first, first + count)}
        for register in acc.values():
            register.store(T.broadcast(T.int32(0), lanes))
        self._accumulate(y, x, acc)
        zero = T.broadcast(T.int32(0), lanes)
        vectors = [T.Bind(register.load()) for register in acc.values()] + [zero] * (lanes - count)
        sums = _sums(vectors, lanes)
        for output, result in self.epilogue.finish(sums, [], self.epilogue.channels(first)):
            for offset, size in powers_of_two(count, lanes):
                part = result if size == lanes else lanes_of(result, offset, size)
                # Values of consecutive pixels are contiguous.
                place = [y + output.border, x + output.border + first // outputs, first % outputs + offset]
                store(output.buffer, place, size, part)

    def _accumulate(self, y: Expr, x: Expr, acc: dict[int, Register]) -> None:
        spec, width, outputs = self.spec, self.isa.lanes * 4, self.spec.out_channels
        top, left = (spec.in_border - padding for padding in spec.padding)
        row_bytes, count = spec.kernel[1] * spec.in_channels, len(self.chunks)
        with T.serial(spec.kernel[0]) as ky, T.serial(count) as index:
            chunk = T.Bind(T.min(index * width, row_bytes - width))
            weights = []
            for channel in range(outputs):
                vector = (ky * count + index) * outputs + channel
                weight = self.epilogue.weight.vload([vector * width], f"int8x{width}")
                weights.append([T.Bind(operand) for operand in self.isa.prepare_weight(weight)])
            for pixel in sorted({value // outputs for value in acc}):
                place = [y * spec.stride + ky + top, (x + pixel) * spec.stride + left, chunk]
                loaded = self.source.vload(place, f"uint8x{width}")
                quads = T.reinterpret(loaded, dtype=f"int32x{self.isa.lanes}")
                activation = [T.Bind(operand) for operand in self.isa.prepare_activation(quads)]
                for channel in range(outputs):
                    register = acc.get(pixel * outputs + channel)
                    if register is not None:
                        register.store(self.isa.dot(register.load(), activation, weights[channel]))


def _sums(vectors: list[Expr], lanes: int) -> Expr:
    """The vector whose lane i is the sum of all lanes of `vectors[i]`, by shuffles that stay cheap on x86."""
    blocks = range(0, lanes, 4)
    # Within blocks of four lanes, interleave pairs twice: then each block holds one partial sum of four vectors.
    pair = [
        [block + i for block in blocks for i in order]
        for order in ((0, lanes, 1, lanes + 1), (2, lanes + 2, 3, lanes + 3))
    ]
    quad = [
        [block + i for block in blocks for i in order]
        for order in ((0, 1, lanes, lanes + 1), (2, 3, lanes + 2, lanes + 3))
    ]
    stages = [pair, quad]
    # Then add even and odd blocks of two vectors until each vector's four sums fill one block.
    for _ in range((lanes // 4).bit_length() - 1):
        stages.append([[start + i for start in range(odd * 4, 2 * lanes, 8) for i in range(4)] for odd in (0, 1)])
    for low, high in stages:
        vectors = [
            T.Bind(T.Shuffle([a, b], low) + T.Shuffle([a, b], high))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors[0]


def _chunks(spec: ConvSpec, isa: Isa) -> list[int]:
    """Byte offsets of the vectors that cover one kernel row; the last may overlap the one before it."""
    row_bytes, width = spec.kernel[1] * spec.in_channels, isa.lanes * 4
    return [min(offset, row_bytes - width) for offset in range(0, row_bytes, width)]


def lane_order(spec: ConvSpec, isa: Isa) -> list[int | None]:
    """The network's output channel of every lane of the parameters: those of `lanes` pixels in a row."""
    return [*range(spec.out_channels)] * isa.lanes


def pack_weight(spec: ConvSpec, isa: Isa, weight: np.ndarray) -> np.ndarray:
    """int8 weights [out_channels, in_channels, rows, columns] in the order in which the kernel reads them."""
    outputs, channels, rows, columns = weight.shape
    by_row = weight.transpose(2, 0, 3, 1).reshape(rows, outputs, columns * channels)
    width = isa.lanes * 4
    parts = []
    for index, offset in enumerate(_chunks(spec, isa)):
        part = by_row[:, :, offset : offset + width].copy()
        part[:, :, : index * width - offset] = 0  # what the overlapping last vector has in common with the one before
        parts.append(part)
    return np.stack(parts, axis=1).ravel()
