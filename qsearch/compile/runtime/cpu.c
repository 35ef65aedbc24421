/* Names the first instruction set that the kernels need and this processor, or its operating system, lacks. */
#include <stddef.h>

#if defined(__x86_64__) && QS_X86_LEVEL > 0
#include <cpuid.h>
#include <stdint.h>

static uint64_t qs_xgetbv(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

static const char *qs_missing_instructions(void) {
  unsigned a, b, c = 0, d, b7 = 0, c7 = 0, a71 = 0;
  const unsigned fma_movbe_xsave_f16c = 1u << 12 | 1u << 22 | 1u << 27 | 1u << 29;
  const unsigned bmi1_avx2_bmi2 = 1u << 3 | 1u << 5 | 1u << 8;
  const unsigned avx512_f_dq_cd_bw_vl = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
  const unsigned avx512_vnni = 1u << 11, avx_vnni = 1u << 4;
  (void)__get_cpuid(1, &a, &b, &c, &d);
  if (__get_cpuid_count(7, 0, &a, &b, &c7, &d)) b7 = b;
  if (__get_cpuid_count(7, 1, &a, &b, &d, &d)) a71 = a;
  /* xgetbv says which registers the operating system saves: 6 is YMM, 0xe6 is ZMM. */
  if ((c & fma_movbe_xsave_f16c) != fma_movbe_xsave_f16c || (qs_xgetbv() & 6) != 6 ||
      (b7 & bmi1_avx2_bmi2) != bmi1_avx2_bmi2)
    return "this processor has no AVX2, which the network was compiled for";
  if (QS_X86_LEVEL == 2 && !(a71 & avx_vnni))
    return "this processor has no AVX-VNNI, which the network was compiled for";
  if (QS_X86_LEVEL == 3 && ((b7 & avx512_f_dq_cd_bw_vl) != avx512_f_dq_cd_bw_vl || !(c7 & avx512_vnni) ||
                            (qs_xgetbv() & 0xe6) != 0xe6))
    return "this processor has no AVX512-VNNI, which the network was compiled for";
  return NULL;
}
#else
static const char *qs_missing_instructions(void) { return NULL; }
#endif
