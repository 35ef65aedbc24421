/* Small things that every way through an image needs. */
#include <stdint.h>

static inline int64_t qs_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t qs_min(int64_t a, int64_t b) { return a < b ? a : b; }

typedef uint8_t qs_vector __attribute__((vector_size(16), aligned(1)));

/* Not memcpy: that of a C library built for size copies single bytes. */
__attribute__((no_builtin("memcpy"))) static void qs_copy(uint8_t *to, const uint8_t *from, int64_t bytes) {
  int64_t i = 0;
  for (; i + 64 <= bytes; i += 64)
    for (int part = 0; part < 64; part += 16) *(qs_vector *)(to + i + part) = *(const qs_vector *)(from + i + part);
  for (; i < bytes; i++) to[i] = from[i];
}

static void qs_copy_rows(uint8_t *to, int64_t to_stride, const uint8_t *from, int64_t from_stride, int64_t bytes,
                         int64_t rows) {
  for (int64_t y = 0; y < rows; y++) qs_copy(to + y * to_stride, from + y * from_stride, bytes);
}
