/* One convolution with its whole epilogue. See the integer operations for the semantics; sums wrap as uint32. */
#include "kernel.h"

static const struct {
  int channels, border, repeat, factors;
} skips[] = SKIPS;

static const struct {
  int channels, border, piecewise, offset, pitch, scales, negative_scales, bounds, pad;
} outputs[] = OUTPUTS;

/* Adding 1.5 * 2^23 to a float below 2^22 rounds it half to even and leaves the integer in its low bits. */
static int32_t round_to_even(float value) {
  union {
    float value;
    int32_t bits;
  } sum = {value + 12582912.0f};
  return sum.bits - 0x4b400000;
}

static int32_t steps(int32_t beyond, int32_t ratio) { return ((beyond > 0 ? beyond : 0) + ratio / 2) / ratio; }

/* To the nearest of every ratio-th value outside of the breakpoints. */
static int32_t snap(int32_t q, const int32_t *pieces) {
  int32_t low = pieces[0], high = pieces[1], ratio = pieces[2];
  int32_t inside = q < low ? low : q > high ? high : q;
  return inside + ratio * (steps(q - high, ratio) - steps(low - q, ratio));
}

/* All sums of one pixel. */
static void accumulate(uint32_t acc[CHANNELS], const uint8_t *window, int64_t line, const int8_t *weight) {
  enum { SHARE = IN_CHANNELS / GROUPS, OUT_SHARE = CHANNELS / GROUPS };
  for (int c = 0; c < CHANNELS; c++) acc[c] = 0;
  for (int ky = 0; ky < ROWS; ky++)
    for (int kx = 0; kx < COLUMNS; kx++)
      for (int i = 0; i < SHARE; i++, weight += CHANNELS)
        for (int g = 0; g < GROUPS; g++) {
          int32_t value = window[ky * line + kx * IN_CHANNELS + g * SHARE + i];
          for (int o = 0; o < OUT_SHARE; o++)
            acc[g * OUT_SHARE + o] += (uint32_t)(value * weight[g * OUT_SHARE + o]);
        }
}

static void finish(uint32_t acc[CHANNELS], DLTensor *const *t, int64_t y, int64_t x, int64_t columns) {
  const int32_t *bias = t[BIAS]->data, *shift = t[SHIFT]->data;
  for (int c = 0; c < CHANNELS; c++) acc[c] = (acc[c] << shift[c]) + (uint32_t)bias[c];
  for (int i = 0; i < NUM_SKIPS; i++) {
    int64_t line = columns + 2 * skips[i].border;
    const uint8_t *value = (const uint8_t *)t[1 + i]->data +
                           ((y + skips[i].border) * line + x + skips[i].border) * skips[i].channels;
    const int32_t *factors = t[skips[i].factors]->data;
    for (int c = 0; c < CHANNELS; c++) acc[c] += (uint32_t)factors[c] * value[c / skips[i].repeat];
  }
  for (int i = 0; i < NUM_OUTPUTS; i++) {
    const float *scales = t[outputs[i].scales]->data, *negative = PRELU ? t[outputs[i].negative_scales]->data : scales;
    const int32_t *bounds = t[outputs[i].bounds]->data;
    float lowest = (float)(bounds[1] - bounds[0]), highest = (float)(bounds[2] - bounds[0]);
    int64_t line = columns * SHUFFLE + 2 * outputs[i].border;
    uint8_t *output = (uint8_t *)t[1 + NUM_SKIPS + i]->data + outputs[i].offset;
    for (int c = 0; c < CHANNELS; c++) {
      int sub = c % (SHUFFLE * SHUFFLE);
      int32_t sum = (int32_t)acc[c];
      float scaled = (float)sum * (sum < 0 ? negative : scales)[c];
      int32_t q = bounds[0] + round_to_even(scaled < lowest ? lowest : scaled > highest ? highest : scaled);
      if (outputs[i].piecewise) q = snap(q, bounds + 3);
      int64_t row = y * SHUFFLE + sub / SHUFFLE + outputs[i].border;
      int64_t column = x * SHUFFLE + sub % SHUFFLE + outputs[i].border;
      output[(row * line + column) * outputs[i].pitch + c / (SHUFFLE * SHUFFLE)] = (uint8_t)q;
    }
  }
}

static void size(const DLTensor *input, int64_t *rows, int64_t *columns) {
  *rows = (input->shape[0] - 2 * TOP - ROWS) / STRIDE + 1;
  *columns = (input->shape[1] - 2 * LEFT - COLUMNS) / STRIDE + 1;
}

static void compute_row(DLTensor *const *t, int64_t y) {
  int64_t rows, columns, line = t[0]->shape[1] * IN_CHANNELS;
  size(t[0], &rows, &columns);
  const uint8_t *window = (const uint8_t *)t[0]->data + (y * STRIDE + TOP) * line + LEFT * IN_CHANNELS;
  uint32_t acc[CHANNELS];
  for (int64_t x = 0; x < columns; x++) {
    accumulate(acc, window + x * STRIDE * IN_CHANNELS, line, t[WEIGHT]->data);
    finish(acc, t, y, x, columns);
  }
  for (int i = 0; i < NUM_OUTPUTS; i++)
    if (outputs[i].border)
      fill_borders((uint8_t *)t[1 + NUM_SKIPS + i]->data + outputs[i].offset, rows * SHUFFLE, columns * SHUFFLE,
                   y * SHUFFLE, SHUFFLE, t[outputs[i].pad]->data, outputs[i].channels, outputs[i].pitch,
                   outputs[i].border);
}

int32_t KERNEL(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
  DLTensor *tensors[NUM_TENSORS];
  (void)self, (void)result;
  take_tensors(arguments, count, tensors);
  int64_t rows, columns;
  size(tensors[0], &rows, &columns);
  return compute_rows(tensors, rows);
}
