"""NEON of 32-bit processors: `vmull` and `vpadal`, with half as many registers as in 64-bit mode."""

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.arm_neon import LANES, WEIGHT_ORDER, dots, prepare_activation, prepare_weight
from qsearch.compile.kernels.isa import Expr, Gather, Isa


def _add_pairs(acc: Expr, products: Expr) -> Expr:
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.arm.neon.vpadals")
    return T.call_llvm_pure_intrin(intrinsic, acc, products, dtype="int32x4")


_DOT, _SYMMETRIC_DOT = dots(_add_pairs)


def _tile(blocks: int) -> tuple[int, int]:
    # 16 registers: accumulators, operands, products
    return (4, 1) if blocks == 1 else (2, 2)


def _gather_tile(blocks: int) -> tuple[int, int]:
    return {1: (6, 1), 2: (4, 2), 3: (2, 3)}.get(blocks, (2, 4))


def _widened_tile(blocks: int) -> tuple[int, int]:
    return (6, 1) if blocks == 1 else (3, 2)


ARMV7_NEON = Isa(
    name="armv7_neon",
    arch="armv7",
    lanes=LANES,
    features=("neon",),
    prepare_weight=prepare_weight,
    prepare_activation=prepare_activation,
    dot=_DOT,
    tile=_tile,
    large_transforms=False,
    paired_tiles=1,
    symmetric_dot=_SYMMETRIC_DOT,
    offset=128,
    by_lane=True,
    weight_order=WEIGHT_ORDER,
    gather=Gather(_add_pairs, 2, _gather_tile, _widened_tile),
)
