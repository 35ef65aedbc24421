/* Rounding that no mathematical library is needed for. */
#ifndef QS_ROUNDING_H
#define QS_ROUNDING_H
#include <stdint.h>

/* To the nearest integer, halves to the even one. |x| < 2^51. */
static inline int64_t qs_nearest(double x) {
#pragma STDC FP_CONTRACT OFF
  const double magic = 0x1.8p52;
  double moved = x + magic;
  return (int64_t)(moved - magic);
}

/* a / b for positive b, to the nearest integer, halves up. */
static inline int64_t qs_divided(int64_t a, int64_t b) {
  int64_t over = 2 * a + b, under = 2 * b, down = over / under;
  return down - (over % under < 0);
}

#endif
