"""NEON without dot product (Cortex-A53, A72): `smull` multiplies eight bytes to int16, `sadalp` adds pairs to int32.

Activations are lowered by 128 to be signed.
"""

from collections.abc import Callable, Sequence

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import lanes_of
from qsearch.compile.kernels.isa import Dot, Expr, Gather, Isa

LANES = 4


# First the first two weights of every quad, then the others, so that the halves of a vector are operands.
WEIGHT_ORDER = tuple(4 * quad + 2 * half + i for half in range(2) for quad in range(LANES) for i in range(2))


def prepare_weight(weight: Expr) -> tuple[Expr, ...]:
    """See `Isa`."""
    return lanes_of(weight, 0, 8), lanes_of(weight, 8, 8)


def prepare_activation(quads: Expr) -> tuple[Expr, ...]:
    """The first and the second two bytes of every quad, as `int16x4`."""
    signed = T.Bind(T.bitwise_xor(quads, T.broadcast(T.int32(-0x7F7F7F80), LANES)))
    upper = T.shift_right(signed, T.broadcast(T.int32(16), LANES))
    return T.cast(signed, "int16x4"), T.cast(upper, "int16x4")


def multiply(activation: Expr, weight: Expr) -> Expr:
    """Eight int16 products of bytes."""
    a, w = (T.cast(T.reinterpret(operand, dtype="int8x8"), "int16x8") for operand in (activation, weight))
    return a * w


def _add_pairs(acc: Expr, products: Expr) -> Expr:
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.saddlp")
    return acc + T.call_llvm_pure_intrin(intrinsic, products, dtype="int32x4")


def dots(add_pairs: Callable[[Expr, Expr], Expr]) -> tuple[Dot, Dot]:
    """The dot product for all weights, and the faster one for weights above −128, by what adds int16 pairs to int32."""

    def dot(acc: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        # One product at a time: the sum of two can be 2·128·128, which is too large for int16.
        for a, w in zip(activation, weight, strict=True):
            acc = add_pairs(acc, multiply(a, w))
        return acc

    def symmetric_dot(acc: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        return add_pairs(acc, multiply(activation[0], weight[0]) + multiply(activation[1], weight[1]))

    return dot, symmetric_dot


_DOT, _SYMMETRIC_DOT = dots(_add_pairs)


def _tile(blocks: int) -> tuple[int, int]:
    # 32 registers: accumulators, two operands of every activation and of one weight, and products
    return {1: (6, 1), 2: (4, 2), 3: (3, 3)}.get(blocks, (2, 4))


def _gather_tile(blocks: int) -> tuple[int, int]:
    # Sixteen int16 sums; a pair of activations is broadcast once for all blocks, a weight loaded once for all pixels.
    return {1: (10, 1), 2: (5, 2), 3: (4, 3)}.get(blocks, (4, 4))


def _widened_tile(blocks: int) -> tuple[int, int]:
    return {1: (6, 1), 2: (4, 2), 3: (3, 3), 4: (3, 4)}.get(blocks, (2, 6))


ARM_NEON = Isa(
    name="arm_neon",
    arch="aarch64",
    lanes=LANES,
    features=("neon",),
    prepare_weight=prepare_weight,
    prepare_activation=prepare_activation,
    dot=_DOT,
    tile=_tile,
    symmetric_dot=_SYMMETRIC_DOT,
    offset=128,
    by_lane=True,
    weight_order=WEIGHT_ORDER,
    gather=Gather(_add_pairs, 4, _gather_tile, _widened_tile),
)
