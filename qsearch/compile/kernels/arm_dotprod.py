"""Armv8.2 dot product: `sdot` multiplies 16 int8 × int8 pairs and adds them into four int32, one operand by lane.

Activations are uint8: flipping their highest bit subtracts 128, which the bias makes up for.
"""

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.isa import Expr, Isa


def _prepare_weight(weight: Expr) -> tuple[Expr, ...]:
    return (weight,)


def _prepare_activation(quads: Expr) -> tuple[Expr, ...]:
    return (T.bitwise_xor(quads, T.broadcast(T.int32(-0x7F7F7F80), 4)),)


def _dot(acc: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
    bytes_ = T.reinterpret(activation[0], dtype="int8x16")
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.sdot")
    return T.call_llvm_pure_intrin(intrinsic, acc, weight[0], bytes_, dtype="int32x4")


def tile(blocks: int) -> tuple[int, int]:
    """The register tile, see `Isa`."""
    # 32 registers: accumulators, one activation vector per pixel, one weight per block, and the constant. A tile of
    # several blocks shares the work on an activation; every pixel shares the load of a weight.
    return {1: (14, 1), 2: (8, 2), 3: (6, 3)}.get(blocks, (5, 4))


ARM_DOTPROD = Isa(
    name="arm_dotprod",
    arch="aarch64",
    lanes=4,
    features=("neon", "dotprod"),
    prepare_weight=_prepare_weight,
    prepare_activation=_prepare_activation,
    dot=_dot,
    tile=tile,
    paired_tiles=5,
    offset=128,
    by_lane=True,
)
