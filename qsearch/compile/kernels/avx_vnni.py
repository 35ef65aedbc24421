"""AVX-VNNI: the 256-bit form of the same instruction, on client processors without AVX512."""

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.isa import Expr, Isa, as_loaded


def _dot(acc: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
    bytes_ = T.reinterpret(activation[0], dtype="int8x32")
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.256")
    return T.call_llvm_pure_intrin(intrinsic, acc, bytes_, weight[0], dtype="int32x8")


def _tile(blocks: int) -> tuple[int, int]:
    # 16 registers: 12 accumulators, one activation, the weights, which LLVM does not read from memory as operands
    return {1: (8, 1), 3: (4, 3)}.get(blocks, (6, 2))


def _other_tiles(blocks: int) -> tuple[tuple[int, int], ...]:
    return () if blocks < 4 else ((4, 3), (5, 2))


AVX_VNNI = Isa(
    name="avx_vnni",
    arch="x86_64",
    lanes=8,
    features=("avx2", "avxvnni", "bmi2"),
    prepare_weight=as_loaded,
    prepare_activation=as_loaded,
    dot=_dot,
    tile=_tile,
    paired_tiles=3,
    other_tiles=_other_tiles,
)
