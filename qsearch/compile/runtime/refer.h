/* What the generator writes about RefER, as data for refer.c. Buffers, steps and parameters are numbers of theirs. */
#ifndef QS_REFER_H
#define QS_REFER_H
#include <stdint.h>

/* Channels `first` to first + count of the whole buffer hold the values of parameter `values`, in the border too. */
typedef struct {
  int16_t buffer, first, count, values;
} qs_fill;

/* All of buffer `from`, which has no border, goes to the channels of buffer `to` from `first` on. */
typedef struct {
  int16_t from, to, first;
} qs_move;

/* A part of a network: what it takes besides the image, then its steps; ends are exclusive. */
typedef struct {
  int16_t first_move, end_move, first_step, end_step;
} qs_part;

/* A value that is repaired in place, and what the fusion makes of it. Its code of a code of the base without fusion is
 * requantized (see ops.requantize) with the parameters k and m and the grid, or where k is -1 stands in the parameter
 * `unmoved`, [channels][256]. The base itself has neither. */
typedef struct {
  int16_t value, fused, k, m, unmoved;
  int16_t base_zero, zero, lo, hi;
} qs_reader;

/* One RefER: the values of query and reference that it compares, and where the warped reference goes. */
typedef struct {
  int16_t query, reference, base, warped, warped_first;
  int16_t first_reader, end_reader;
  int16_t weight, factor, table; /* parameters, see matching.c */
  int32_t keys, channels, reduce, zero_point, length;
  qs_part fusion;
} qs_repair;

#endif
