"""Convolution to few channels (an image): vectors run along the input channels, and are summed up at the end.

The direct kernel would leave most lanes of its one block of output channels empty. Here every accumulator is one
output value, and up to `lanes` of them, consecutive in the output image, are summed across their lanes into one vector.
"""

from dataclasses import replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import Register, accumulator_size, lanes_of, prefetch, store, tensor
from qsearch.compile.kernels.epilogue import Epilogue
from qsearch.compile.kernels.isa import Expr, Isa
from qsearch.compile.kernels.layout import powers_of_two
from qsearch.compile.packing import Convolution, compensated, dense, epilogue_parameters, in_vectors, vector_offsets
from qsearch.compile.specs import ConvSpec

# Each output channel needs a weight vector in a register.
MOST_CHANNELS = 4


def applies(spec: ConvSpec, isa: Isa) -> bool:
    """Whether this kernel computes `spec` with clearly fewer multiplications than the direct one."""
    plain = not spec.skips and spec.shuffle == 1 and spec.out_channels <= MOST_CHANNELS
    whole = all(output.pitch == spec.out_channels for output in spec.outputs)
    row_bytes = spec.kernel[1] * spec.in_channels
    if not (plain and whole and row_bytes >= isa.lanes * 4):
        return False
    here = spec.out_channels * (spec.kernel[0] * len(_chunks(spec, isa)) + 4)
    return here < 0.7 * spec.kernel[0] * row_bytes // 4


class Narrow:
    """The arguments of one kernel and the statements that use them; made inside a `T.prim_func`."""

    def __init__(self, spec: ConvSpec, isa: Isa) -> None:
        self.spec, self.isa = spec, isa
        self.pixels = isa.lanes // spec.out_channels
        self.rows, columns = T.int32(), T.int32()
        self.source = tensor("input", (self.rows, columns, spec.in_channels), "uint8")
        self.height, self.width = accumulator_size(spec, self.rows, columns)
        self.chunks = _chunks(spec, isa)
        # If LLVM knew the number of weights, it would unroll the loop over them, move all of them out of the loop over
        # tiles, and find no registers for them.
        self.weight_bytes = T.int32()
        self.epilogue = Epilogue(spec, (self.height, self.width), isa.lanes, isa.lanes, self.weight_bytes)

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
        with T.serial((self.width + (pixels - 1)) // pixels) as tile:
            x = T.Bind(T.min(tile * pixels, self.width - pixels))
            self._prefetch(y, x, pixels)
            self._tile(y, x, pixels)

    def _prefetch(self, y: Expr, x: Expr, pixels: int) -> None:
        """Below the tile, what the next row needs first: the image is large, and few multiplications hide its way."""
        spec = self.spec
        top, left = (spec.in_border - padding for padding in spec.padding)
        below = T.min(y * spec.stride + top + spec.kernel[0], self.rows - 1)
        prefetch(self.source, [below, x * spec.stride + left, 0], pixels * spec.stride * spec.in_channels)

    def _tile(self, y: Expr, x: Expr, pixels: int) -> None:
        """All output values of `pixels` from (y, x) on, which fit in one vector."""
        lanes, outputs = self.isa.lanes, self.spec.out_channels
        values = pixels * outputs
        local = T.alloc_buffer((values * lanes,), "int32", scope="local")
        acc = [Register(local, value * lanes, lanes) for value in range(values)]
        zero = T.broadcast(T.int32(0), lanes)
        for register in acc:
            register.store(zero)
        self._accumulate(y, x, acc)
        vectors = [T.Bind(register.load()) for register in acc] + [zero] * (lanes - values)
        for output, result in self.epilogue.finish(_sums(vectors, lanes), [], self.epilogue.channels(0)):
            for offset, size in powers_of_two(values, lanes):
                part = result if size == lanes else lanes_of(result, offset, size)
                # Values of consecutive pixels are contiguous.
                place = [y + output.border, x + output.border + offset // outputs, offset % outputs]
                store(output.buffer, place, size, part)

    def _accumulate(self, y: Expr, x: Expr, acc: list[Register]) -> None:
        spec, width, outputs = self.spec, self.isa.lanes * 4, self.spec.out_channels
        top, left = (spec.in_border - padding for padding in spec.padding)
        row_weights = len(self.chunks) * outputs * width
        with T.serial(self.weight_bytes // row_weights) as ky:
            for index, chunk in enumerate(self.chunks):
                weights = []
                for channel in range(outputs):
                    place = [ky * row_weights + (index * outputs + channel) * width]
                    weight = self.epilogue.weight.vload(place, f"int8x{width}")
                    weights.append([T.Bind(operand) for operand in self.isa.prepare_weight(weight)])
                for pixel in range(len(acc) // outputs):
                    place = [y * spec.stride + ky + top, (x + pixel) * spec.stride + left, chunk]
                    loaded = self.source.vload(place, f"uint8x{width}")
                    quads = T.reinterpret(loaded, dtype=f"int32x{self.isa.lanes}")
                    activation = [T.Bind(operand) for operand in self.isa.prepare_activation(quads)]
                    for channel, weight_operands in enumerate(weights):
                        register = acc[pixel * outputs + channel]
                        register.store(self.isa.dot(register.load(), activation, weight_operands))


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
    """Byte offsets of the vectors that cover one kernel row."""
    return vector_offsets(spec.kernel[1] * spec.in_channels, isa.lanes * 4)


def _lane_order(spec: ConvSpec, isa: Isa) -> list[int | None]:
    """The network's output channel of every lane: the output values of consecutive pixels."""
    return [lane % spec.out_channels for lane in range(isa.lanes)]


def forms(spec: ConvSpec, isa: Isa, conv: Convolution) -> list[ConvSpec]:
    """See `Algorithm.forms`."""
    return [replace(spec, algorithm="narrow")] if applies(spec, isa) else []


def kernel(spec: ConvSpec, isa: Isa) -> Narrow:
    """See `Algorithm.kernel`."""
    return Narrow(spec, isa)


def pack(spec: ConvSpec, isa: Isa, conv: Convolution) -> dict[str, np.ndarray]:
    """See `Algorithm.pack`."""
    weight = in_vectors(dense(conv.weight, conv.groups, spec.in_channels), isa.lanes * 4)
    conv = compensated(conv, isa.offset)
    weight = isa.in_memory(weight.transpose(1, 2, 0, 3))
    return {"weight": weight, **epilogue_parameters(spec, conv, _lane_order(spec, isa))}
