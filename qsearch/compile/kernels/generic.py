"""Plain LLVM vector arithmetic of four int32 lanes, for any processor."""

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.isa import Expr, Isa

LANES = 4


def _prepare_weight(weight: Expr) -> tuple[Expr, ...]:
    packed = T.reinterpret(weight, dtype=f"int32x{LANES}")
    top = T.broadcast(T.int32(24), LANES)
    # Shifting up and down sign-extends byte k; LLVM then knows that 16-bit multiplications suffice.
    return tuple(
        T.shift_right(T.shift_left(packed, T.broadcast(T.int32(24 - 8 * k), LANES)) if k < 3 else packed, top)
        for k in range(4)
    )


def _prepare_activation(quads: Expr) -> tuple[Expr, ...]:
    bits = T.reinterpret(quads, dtype=f"uint32x{LANES}")
    byte = T.broadcast(T.uint32(255), LANES)
    parts = (T.bitwise_and(T.shift_right(bits, T.broadcast(T.uint32(8 * k), LANES)), byte) for k in range(4))
    return tuple(T.reinterpret(part, dtype=f"int32x{LANES}") for part in parts)


def _dot(acc: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
    for a, w in zip(activation, weight, strict=True):
        acc = acc + a * w
    return acc


def _tile(blocks: int) -> tuple[int, int]:
    return (4, 1) if blocks == 1 else (4, 2)


GENERIC = Isa(
    name="generic",
    arch=None,
    lanes=LANES,
    features=(),
    prepare_weight=_prepare_weight,
    prepare_activation=_prepare_activation,
    dot=_dot,
    tile=_tile,
    large_transforms=False,
)
