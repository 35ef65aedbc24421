/* Copies an image [H, W, CHANNELS] into a bordered buffer of 4-padded channels. */
#include "kernel.h"

enum { STORED = (CHANNELS + 3) / 4 * 4 };

static void compute_row(DLTensor *const *t, int64_t y) {
  int64_t rows = t[0]->shape[0], columns = t[0]->shape[1];
  const uint8_t *from = (const uint8_t *)t[0]->data + y * columns * CHANNELS;
  uint8_t *buffer = t[1]->data, *to = buffer + ((y + BORDER) * (columns + 2 * BORDER) + BORDER) * STORED;
  for (int64_t x = 0; x < columns; x++)
    for (int c = 0; c < STORED; c++) to[x * STORED + c] = from[x * CHANNELS + (c < CHANNELS ? c : CHANNELS - 1)];
  if (BORDER) fill_borders(buffer, rows, columns, y, 1, t[2]->data, STORED, STORED, BORDER);
}

int32_t KERNEL(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
  DLTensor *tensors[3];
  (void)self, (void)result;
  take_tensors(arguments, count, tensors);
  return compute_rows(tensors, tensors[0]->shape[0]);
}
