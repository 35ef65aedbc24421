"""AVX2: both operands are widened to int16 and multiplied by `vpmaddwd`, which is exact.

`vpmaddubsw` would need no widening but saturates the sum of two products at 16 bits.
"""

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.isa import Expr, Isa


def _prepare_weight(weight: Expr) -> tuple[Expr, ...]:
    pairs = T.reinterpret(weight, dtype="int16x16")
    eight = T.broadcast(T.int16(8), 16)
    even = T.shift_right(T.shift_left(pairs, eight), eight)
    return even, T.shift_right(pairs, eight)


def _prepare_activation(quads: Expr) -> tuple[Expr, ...]:
    pairs = T.reinterpret(quads, dtype="uint16x16")
    even = T.bitwise_and(pairs, T.broadcast(T.uint16(255), 16))
    odd = T.shift_right(pairs, T.broadcast(T.uint16(8), 16))
    return T.reinterpret(even, dtype="int16x16"), T.reinterpret(odd, dtype="int16x16")


def _dot(acc: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.x86.avx2.pmadd.wd")
    for a, w in zip(activation, weight, strict=True):
        acc = acc + T.call_llvm_pure_intrin(intrinsic, a, w, dtype="int32x8")
    return acc


def _tile(blocks: int) -> tuple[int, int]:
    # 16 registers: 8 accumulators, and two operands of every weight and activation
    return (8, 1) if blocks == 1 else (4, 2)


AVX2 = Isa(
    name="avx2",
    arch="x86_64",
    lanes=8,
    features=("avx2", "bmi2"),
    prepare_weight=_prepare_weight,
    prepare_activation=_prepare_activation,
    dot=_dot,
    tile=_tile,
)
