"""Direct convolution by products of small matrices: two pixels × two output channels, over eight bytes at a time."""

from dataclasses import replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels import direct
from qsearch.compile.kernels.emit import Register
from qsearch.compile.kernels.isa import Expr, Isa
from qsearch.compile.packing import Convolution, dense, in_vectors, vector_offsets
from qsearch.compile.specs import ConvSpec

# Bytes of a kernel row that one load brings.
_WIDTH = 16


class Matmul(direct.Direct):
    """The arguments of one kernel and the statements that use them; made inside a `T.prim_func`."""

    def __init__(self, spec: ConvSpec, isa: Isa) -> None:
        assert isa.matmul is not None
        self._multiply = isa.matmul.multiply
        super().__init__(replace(spec, algorithm=direct.NAME), _as_direct(isa))

    def _lane_bytes(self) -> int:
        return self.spec.kernel[0] * len(_offsets(self.spec)) * _WIDTH

    def _accumulate(self, y: Expr, x: Expr, first: Expr, acc: list[list[Register]], *_: object) -> None:
        """All rows of the kernel in one go, as without a narrowing; accumulators hold 2 × 2 values until the end."""
        spec, pixels, count = self.spec, len(acc), len(acc[0])
        pairs, halves = (pixels + 1) // 2, 2 * count
        local = T.alloc_buffer((pairs * halves * 4,), "int32", scope="local")
        sums = [[Register(local, (i * halves + j) * 4, 4) for j in range(halves)] for i in range(pairs)]
        for register in (register for row in sums for register in row):
            register.store(T.broadcast(T.int32(0), 4))
        top, left = (spec.in_border - padding for padding in spec.padding)
        offsets = _offsets(spec)
        with T.serial(spec.kernel[0]) as ky, T.serial(len(offsets)) as index:
            byte = T.Bind(T.min(index * _WIDTH, offsets[-1]))
            rows = [
                T.Bind(self.source.vload([y * spec.stride + ky + top, (x + p) * spec.stride + left, byte], "uint8x16"))
                for p in range(pixels)
            ]
            for octet in range(2):
                activations = [_pair(rows[i : i + 2], octet) for i in range(0, pixels, 2)]
                for j in range(halves):
                    vector = first * (spec.kernel[0] * len(offsets) * 4) + (
                        ((ky * len(offsets) + index) * 2 + octet) * halves + j
                    )
                    weight = T.Bind(self.epilogue.weight.vload([vector * 16], "int8x16"))
                    for row, activation in zip(sums, activations, strict=True):
                        row[j].store(self._multiply(row[j].load(), activation, weight))
        for p, per_pixel in enumerate(acc):
            for b, register in enumerate(per_pixel):
                low, high = (sums[p // 2][2 * b + half].load() for half in range(2))
                lanes = (0, 1, 4, 5) if p % 2 == 0 else (2, 3, 6, 7)
                register.store(T.Shuffle([low, high], list(lanes)))


def _pair(rows: list[Expr], octet: int) -> Expr:
    """Eight bytes of two pixels, one after the other; of one pixel alone, twice."""
    wide = [T.reinterpret(row, dtype="int64x2") for row in (rows[0], rows[-1])]
    return T.Bind(T.reinterpret(T.Shuffle(wide, [octet, 2 + octet]), dtype="int8x16"))


def _offsets(spec: ConvSpec) -> list[int]:
    return vector_offsets(spec.kernel[1] * spec.in_channels, _WIDTH)


def _as_direct(isa: Isa) -> Isa:
    """`isa` with the register tile of this kernel."""
    assert isa.matmul is not None
    return replace(isa, tile=isa.matmul.tile, narrowing=None)


def forms(spec: ConvSpec, isa: Isa, conv: Convolution) -> list[ConvSpec]:
    """See `Algorithm.forms`."""
    if isa.matmul is None or direct.in_groups(spec, isa, conv) or spec.kernel[1] * spec.in_channels < _WIDTH:
        return []
    return [replace(spec, algorithm="matmul")]


def kernel(spec: ConvSpec, isa: Isa) -> Matmul:
    """See `Algorithm.kernel`."""
    return Matmul(spec, isa)


def pack(spec: ConvSpec, isa: Isa, conv: Convolution) -> dict[str, np.ndarray]:
    """See `Algorithm.pack`."""
    spec, as_direct = replace(spec, algorithm=direct.NAME), _as_direct(isa)
    weight = in_vectors(dense(conv.weight, conv.groups, spec.in_channels), _WIDTH)
    layout = direct.layout_of(spec, as_direct)
    lanes = direct.in_lanes(weight, layout.order)
    _, rows, vectors, _ = weight.shape
    parts = []
    for first, count in layout.tiles:
        part = lanes[first * isa.lanes : (first + count) * isa.lanes]
        split = part.reshape(2 * count, 2, rows, vectors, 2, 8)
        parts.append(split.transpose(2, 3, 4, 0, 1, 5).ravel())
    return {**direct.pack(spec, as_direct, conv), "weight": np.concatenate(parts)}
