"""AVX512-VNNI: one instruction multiplies 64 uint8 × int8 pairs and adds them into 16 int32."""

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.isa import Expr, Isa, Narrowing, as_loaded


def _dot(acc: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
    # Since LLVM 21 the intrinsic takes byte vectors; the stock TVM intrinsic still passes <16 x i32>.
    bytes_ = T.reinterpret(activation[0], dtype="int8x64")
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.vpdpbusd.512")
    return T.call_llvm_pure_intrin(intrinsic, acc, bytes_, weight[0], dtype="int32x16")


def _tile(blocks: int) -> tuple[int, int]:
    # 32 registers: accumulators, one activation, one weight per block, some for requantization; 10 chains hide latency.
    return {1: (16, 1), 2: (8, 2), 3: (5, 3)}.get(blocks, (4, 4))


def _other_tiles(blocks: int) -> tuple[tuple[int, int], ...]:
    return {1: ((24, 1),), 2: ((12, 2),), 3: ((8, 3),)}.get(blocks, ((5, 4), (8, 2)))


def _round(value: Expr) -> Expr:
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.x86.avx512.mask.cvtps2dq.512")
    zero = T.broadcast(T.int32(0), 16)
    return T.call_llvm_pure_intrin(intrinsic, value, zero, T.int16(-1), T.int32(4), dtype="int32x16")


def _join(values: Sequence[Expr], zero_point: Expr) -> Expr:
    words, bytes_ = (T.llvm_lookup_intrinsic_id(f"llvm.x86.avx512.pack{kind}.512") for kind in ("ssdw", "uswb"))
    wide = T.broadcast(T.cast(zero_point, "int16"), 32)
    # Saturated to −32768 … 255 − zero_point before, the sums cannot overflow.
    low, high = (T.call_llvm_pure_intrin(words, values[i], values[i + 1], dtype="int16x32") + wide for i in (0, 2))
    return T.reinterpret(T.call_llvm_pure_intrin(bytes_, low, high, dtype="int8x64"), dtype="uint8x64")


def _lane(vector: int, lane: int) -> int:
    return lane // 4 * 16 + vector * 4 + lane % 4


AVX512_VNNI = Isa(
    name="avx512_vnni",
    arch="x86_64",
    lanes=16,
    features=("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "bmi2"),
    prepare_weight=as_loaded,
    prepare_activation=as_loaded,
    dot=_dot,
    tile=_tile,
    paired_tiles=5,
    other_tiles=_other_tiles,
    narrowing=Narrowing(vectors=4, round=_round, join=_join, lane=_lane),
)
