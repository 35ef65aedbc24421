"""AVX512-VNNI and AVX512-VPOPCNTDQ, which counts the ones of 16 words at once: for bit-serial kernels."""

from dataclasses import replace

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.avx512_vnni import AVX512_VNNI
from qsearch.compile.kernels.isa import Expr, Popcount


def _upper_bits(values: Expr, width: int) -> Expr:
    name = {16: "llvm.x86.sse2.pmovmskb.128", 32: "llvm.x86.avx2.pmovmskb"}[width]
    mask = T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), values, dtype="int32")
    return T.cast(mask, f"uint{width}")


AVX512_POPCNT = replace(
    AVX512_VNNI,
    name="avx512_popcnt",
    features=(*AVX512_VNNI.features, "avx512vpopcntdq"),
    popcount=Popcount(_upper_bits),
)
