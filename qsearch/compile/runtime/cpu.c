/* Names the first instruction set that the kernels need and this processor, or its operating system, lacks. */
#include <stddef.h>
#define QS_NO(name) "this processor has no " name ", which the network was compiled for"

#if defined(QS_ISA_avx2) || defined(QS_ISA_avx_vnni) || defined(QS_ISA_avx512_vnni) || defined(QS_ISA_avx512_popcnt)
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
  (void)__get_cpuid(1, &a, &b, &c, &d);
  if (__get_cpuid_count(7, 0, &a, &b, &c7, &d)) b7 = b;
  if (__get_cpuid_count(7, 1, &a, &b, &d, &d)) a71 = a;
  (void)a71, (void)c7;
  /* xgetbv says which registers the operating system saves: 6 is YMM, 0xe6 is ZMM. */
  if ((c & fma_movbe_xsave_f16c) != fma_movbe_xsave_f16c || (qs_xgetbv() & 6) != 6 ||
      (b7 & bmi1_avx2_bmi2) != bmi1_avx2_bmi2)
    return QS_NO("AVX2");
#if defined(QS_ISA_avx_vnni)
  if (!(a71 & 1u << 4)) return QS_NO("AVX-VNNI");
#elif defined(QS_ISA_avx512_vnni) || defined(QS_ISA_avx512_popcnt)
  const unsigned avx512_f_dq_cd_bw_vl = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31, vnni = 1u << 11;
  if ((b7 & avx512_f_dq_cd_bw_vl) != avx512_f_dq_cd_bw_vl || !(c7 & vnni) || (qs_xgetbv() & 0xe6) != 0xe6)
    return QS_NO("AVX512-VNNI");
#if defined(QS_ISA_avx512_popcnt)
  if (!(c7 & 1u << 14)) return QS_NO("AVX512-VPOPCNTDQ");
#endif
#endif
  return NULL;
}
#elif defined(QS_ISA_arm_dotprod) || defined(QS_ISA_arm_i8mm) || defined(__arm__)
#include <sys/auxv.h>

/* The kernel's words for its processor's features: arch/arm64 and arch/arm, include/uapi/asm/hwcap.h of Linux. */
static const char *qs_missing_instructions(void) {
#if defined(__arm__)
  if (!(getauxval(AT_HWCAP) & 1ul << 12)) return QS_NO("NEON");
#else
  if (!(getauxval(AT_HWCAP) & 1ul << 20)) return QS_NO("dot product (asimddp)");
#if defined(QS_ISA_arm_i8mm)
  if (!(getauxval(AT_HWCAP2) & 1ul << 13)) return QS_NO("int8 matrix product (i8mm)");
#endif
#endif
  return NULL;
}
#else
static const char *qs_missing_instructions(void) { return NULL; }
#endif
