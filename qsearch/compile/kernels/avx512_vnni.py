"""AVX512-VNNI: one instruction multiplies 64 uint8 × int8 pairs and adds them into 16 int32."""

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.isa import Expr, Isa


def _prepare_weight(weight: Expr) -> tuple[Expr, ...]:
    return (weight,)


def _prepare_activation(quads: Expr) -> tuple[Expr, ...]:
    return (quads,)


def _dot(acc: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
    # Since LLVM 21 the intrinsic takes byte vectors; the stock TVM intrinsic still passes <16 x i32>.
    bytes_ = T.reinterpret(activation[0], dtype="int8x64")
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512")
    return T.call_llvm_pure_intrin(intrinsic, acc, bytes_, weight[0], dtype="int32x16")


def _tile(blocks: int) -> tuple[int, int]:
    # 32 registers: accumulators, one activation, one weight per block; at least 10 chains hide the latency.
    return {1: (16, 1), 2: (8, 2), 3: (6, 3)}.get(blocks, (5, 4))


AVX512_VNNI = Isa(
    name="avx512_vnni",
    lanes=16,
    features=("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "bmi2"),
    prepare_weight=_prepare_weight,
    prepare_activation=_prepare_activation,
    dot=_dot,
    tile=_tile,
)
