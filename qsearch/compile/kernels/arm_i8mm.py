"""Armv8.6 int8 matrix extension: `usmmla` multiplies 2 × 8 uint8 by 8 × 2 int8, twice the work of `usdot`.

All take uint8 × int8 as they are. `usdot` and `sudot` serve what is no matrix of at least two pixels.
"""

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.arm_dotprod import tile
from qsearch.compile.kernels.isa import Expr, Isa, Matmul, as_loaded


def _dot(acc: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
    bytes_ = T.reinterpret(activation[0], dtype="int8x16")
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.usdot")
    return T.call_llvm_pure_intrin(intrinsic, acc, bytes_, weight[0], dtype="int32x4")


def _multiply(acc: Expr, activation: Expr, weight: Expr) -> Expr:
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.aarch64.neon.usmmla")
    return T.call_llvm_pure_intrin(intrinsic, acc, activation, weight, dtype="int32x4")


def _matmul_tile(blocks: int) -> tuple[int, int]:
    # Every activation is interleaved with its neighbour's once for all blocks.
    return {1: (12, 1), 2: (8, 2), 3: (6, 3)}.get(blocks, (4, 4))


ARM_I8MM = Isa(
    name="arm_i8mm",
    arch="aarch64",
    lanes=4,
    features=("neon", "dotprod", "i8mm"),
    prepare_weight=as_loaded,
    prepare_activation=as_loaded,
    dot=_dot,
    tile=tile,
    paired_tiles=5,
    by_lane=True,
    matmul=Matmul(_multiply, _matmul_tile),
)
