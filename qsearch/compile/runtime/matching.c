/* Where a query's pixels find their like in a reference, and the reference seen there: the same integers as in
 * qsearch/patches/matching.py, where they are explained. Features are uint8 [rows][columns][channels] without gaps.
 *
 * Keys lie in pairs, as the multiplication of pairs wants them: those of a patch are [pairs][cells][2]. */
#include <stdint.h>

#include "rounding.h"

#if defined(QS_ISA_avx2) || defined(QS_ISA_avx_vnni) || defined(QS_ISA_avx512_vnni) || defined(QS_ISA_avx512_popcnt)
#define QS_HOT __attribute__((target("avx2"))) /* checked before a context is created */
#else
#define QS_HOT
#endif

enum { QS_KEY_TOP = 127, QS_CELL_FLOW = 256, QS_FLOW = 16, QS_LANES = 64 };

typedef struct {
  const int16_t *weight; /* [keys][channels], the projection */
  const float *factor;   /* [keys] */
  const int32_t *table;  /* [length + 1], of exp; the last is 0 */
  int32_t keys, channels, reduce, zero_point, length;
} qs_matching;

static int64_t qs_cells(int64_t pixels, int64_t reduce) { return (pixels + reduce - 1) / reduce; }

static int32_t qs_pairs(const qs_matching *m) { return (m->keys + 1) / 2; }

/* 1 / sqrt(x), nearly (Newton's method from the exponent's half). */
static float qs_inverse_root(float x) {
  union {
    float value;
    uint32_t bits;
  } guess = {.value = x};
  guess.bits = 0x5f3759df - (guess.bits >> 1);
  for (int i = 0; i < 3; i++) guess.value *= 1.5f - 0.5f * x * guess.value * guess.value;
  return guess.value;
}

/* 127 * key / sqrt(length) to nearest for key >= 0: the largest n with (2n - 1)^2 * length <= 4 * 127^2 * key^2. It is
 * estimated and then corrected, so that only integers decide. */
static int64_t qs_key_size(int64_t key, int64_t length, float inverse) {
  const int64_t most = 4 * QS_KEY_TOP * QS_KEY_TOP * key * key;
  int64_t n = (int64_t)((float)key * inverse * QS_KEY_TOP + 0.5f);
  while (n > 0 && (2 * n - 1) * (2 * n - 1) * length > most) n--;
  while ((2 * n + 1) * (2 * n + 1) * length <= most) n++;
  return n;
}

/* sums[key] += the projection of up to QS_LANES channels from `first` on of the pixels of a cell. */
QS_HOT static void qs_project(const qs_matching *m, const uint8_t *cell, int64_t row_bytes, int64_t rows,
                              int64_t columns, int first, int count, int32_t *sums) {
  int16_t block[QS_LANES];
  for (int c = 0; c < QS_LANES; c++) block[c] = (int16_t)(-m->zero_point * rows * columns);
  for (int64_t y = 0; y < rows; y++) {
    const uint8_t *pixel = cell + y * row_bytes + first;
    for (int64_t x = 0; x < columns; x++, pixel += m->channels) {
      if (count == QS_LANES)
        for (int c = 0; c < QS_LANES; c++) block[c] = (int16_t)(block[c] + pixel[c]);
      else
        for (int c = 0; c < count; c++) block[c] = (int16_t)(block[c] + pixel[c]);
    }
  }
  for (int k = 0; k < m->keys; k++) {
    const int16_t *weight = m->weight + (int64_t)k * m->channels + first;
    int32_t sum = 0;
    for (int c = 0; c < count; c++) sum += weight[c] * block[c];
    sums[k] += sum;
  }
}

/* Integers -127 ... 127 of the cells in rows `from` to `to` (exclusive) of cells. */
static void qs_keys(const qs_matching *m, const uint8_t *codes, int64_t rows, int64_t columns, int64_t from, int64_t to,
                    int16_t *keys) {
#pragma STDC FP_CONTRACT OFF
  const int64_t across = qs_cells(columns, m->reduce), cells = across * qs_cells(rows, m->reduce);
  const int64_t row_bytes = columns * m->channels;
  for (int64_t i = from * across; i < to * across; i++) {
    const int64_t y = i / across * m->reduce, x = i % across * m->reduce;
    const int64_t height = y + m->reduce < rows ? m->reduce : rows - y;
    const int64_t width = x + m->reduce < columns ? m->reduce : columns - x;
    int32_t sums[QS_MOST_KEYS] = {0}, scaled[QS_MOST_KEYS + 1];
    for (int first = 0; first < m->channels; first += QS_LANES) {
      int left = m->channels - first;
      qs_project(m, codes + y * row_bytes + x * m->channels, row_bytes, height, width, first,
                 left < QS_LANES ? left : QS_LANES, sums);
    }
    int64_t length = 0;
    for (int k = 0; k < m->keys; k++) {
      float product = (float)sums[k] * m->factor[k];
      scaled[k] = (int32_t)qs_nearest(product);
      length += (int64_t)scaled[k] * scaled[k];
    }
    if (length < 1) length = 1;
    const float inverse = qs_inverse_root((float)length);
    scaled[m->keys] = 0;
    for (int k = 0; k < 2 * qs_pairs(m); k++) {
      int64_t size = qs_key_size(scaled[k] < 0 ? -scaled[k] : scaled[k], length, inverse);
      keys[(k / 2 * cells + i) * 2 + k % 2] = (int16_t)(scaled[k] < 0 ? -size : size);
    }
  }
}

/* volume[j]: the product of the keys of cell `i` of the query and of every cell of the reference. */
QS_HOT static void qs_volume(const qs_matching *m, const int16_t *query, const int16_t *reference, int64_t cells,
                             int64_t i, int32_t *volume) {
  for (int64_t j = 0; j < cells; j++) volume[j] = 0;
  for (int p = 0; p < qs_pairs(m); p++, query += 2 * cells, reference += 2 * cells) {
    const int16_t a = query[2 * i], b = query[2 * i + 1];
    for (int64_t j = 0; j < cells; j++) volume[j] += a * reference[2 * j] + b * reference[2 * j + 1];
  }
}

/* Displacement [cells][2] (rows, columns) in 256ths of a pixel, of the cells in rows `from` to `to` of cells; `volume`
 * is room for one row of it. */
QS_HOT static void qs_flow(const qs_matching *m, const int16_t *query, const int16_t *reference, int64_t down,
                           int64_t across, int64_t from, int64_t to, int32_t *volume, int32_t *flow) {
  for (int64_t i = from * across; i < to * across; i++) {
    qs_volume(m, query, reference, down * across, i, volume);
    int32_t most = INT32_MIN;
    for (int64_t j = 0; j < down * across; j++) most = volume[j] > most ? volume[j] : most;
    for (int64_t j = 0; j < down * across; j++) {
      const int32_t distance = most - volume[j];
      volume[j] = distance < m->length ? distance : m->length;
    }
    int64_t total = 0, row_moment = 0, column_moment = 0;
    const int32_t *row = volume;
    for (int64_t r = 0; r < down; r++, row += across) {
      int64_t sum = 0;
      for (int64_t c = 0; c < across; c++) {
        const int64_t weight = m->table[row[c]];
        sum += weight;
        column_moment += weight * c;
      }
      total += sum;
      row_moment += sum * r;
    }
    const int64_t steps = (int64_t)m->reduce * QS_CELL_FLOW;
    flow[2 * i] = (int32_t)qs_divided((row_moment - i / across * total) * steps, total);
    flow[2 * i + 1] = (int32_t)qs_divided((column_moment - i % across * total) * steps, total);
  }
}

/* Between the centres of which two cells of `cells` pixel `i` lies, and its share of the second in (2 * reduce)ths. */
static void qs_between(int64_t i, int64_t reduce, int64_t cells, int64_t *first, int64_t *second, int32_t *share) {
  const int64_t place = 2 * i + 1 > reduce ? 2 * i + 1 - reduce : 0;
  *first = place / (2 * reduce);
  *share = (int32_t)(place % (2 * reduce));
  *second = *first + 1 < cells ? *first + 1 : *first;
}

static int64_t qs_clipped(int64_t value, int64_t most) { return value < 0 ? 0 : value > most ? most : value; }

/* One pixel between four; the weights add up to 256, so that sums fit in 16 bits. */
QS_HOT static void qs_sample(const uint8_t *restrict top, const uint8_t *restrict bottom, int64_t right, int channels,
                             int dy, int dx, uint8_t *restrict to) {
  const uint16_t a = (uint16_t)((QS_FLOW - dy) * (QS_FLOW - dx)), b = (uint16_t)((QS_FLOW - dy) * dx);
  const uint16_t c = (uint16_t)(dy * (QS_FLOW - dx)), d = (uint16_t)(dy * dx);
  for (int i = 0; i < channels; i++) {
    uint16_t sum = (uint16_t)(top[i] * a + top[i + right] * b);
    sum = (uint16_t)(sum + bottom[i] * c + bottom[i + right] * d + QS_FLOW * QS_FLOW / 2);
    to[i] = (uint8_t)(sum / (QS_FLOW * QS_FLOW));
  }
}

/* Rows `from` to `to` of the reference's codes where the pixels of a query find their like. Pixels of the result are
 * `pixel_bytes` apart, and its rows `row_bytes`. */
QS_HOT static void qs_warp(const qs_matching *m, const uint8_t *codes, const int32_t *flow, int64_t rows,
                           int64_t columns, int64_t from, int64_t to, uint8_t *warped, int64_t row_bytes,
                           int64_t pixel_bytes) {
  const int64_t down = qs_cells(rows, m->reduce), across = qs_cells(columns, m->reduce), unit = 2 * m->reduce;
  const int64_t parts = QS_CELL_FLOW / QS_FLOW * unit * unit;
  /* Cells of 2, 4, 8 ... pixels, which are usual, need no division. */
  const int shift = parts & (parts - 1) ? 0 : __builtin_ctzll((uint64_t)parts) + 1;
  for (int64_t y = from; y < to; y++) {
    int64_t above, below, left, right, last = -1;
    int32_t share, part;
    qs_between(y, m->reduce, down, &above, &below, &share);
    const int32_t *high = flow + above * across * 2, *low = flow + below * across * 2;
    int64_t ends[2][2] = {{0}}; /* between the rows, at the cells to the left and to the right */
    for (int64_t x = 0; x < columns; x++) {
      qs_between(x, m->reduce, across, &left, &right, &part);
      int64_t place[2] = {QS_FLOW * y, QS_FLOW * x};
      for (int axis = 0; axis < 2; axis++) {
        if (left != last) {
          ends[0][axis] = high[2 * left + axis] * (unit - share) + (int64_t)low[2 * left + axis] * share;
          ends[1][axis] = high[2 * right + axis] * (unit - share) + (int64_t)low[2 * right + axis] * share;
        }
        const int64_t moved = ends[0][axis] * (unit - part) + ends[1][axis] * part;
        place[axis] += shift ? (2 * moved + parts) >> shift : qs_divided(moved, parts);
      }
      last = left;
      const int64_t row = qs_clipped(place[0], QS_FLOW * (rows - 1)), column = qs_clipped(place[1], QS_FLOW * (columns - 1));
      const int64_t y0 = row / QS_FLOW, y1 = y0 + 1 < rows ? y0 + 1 : y0, x0 = column / QS_FLOW;
      const int64_t beside = x0 + 1 < columns ? m->channels : 0;
      qs_sample(codes + (y0 * columns + x0) * m->channels, codes + (y1 * columns + x0) * m->channels, beside, m->channels,
                (int)(row % QS_FLOW), (int)(column % QS_FLOW), warped + y * row_bytes + x * pixel_bytes);
    }
  }
}
