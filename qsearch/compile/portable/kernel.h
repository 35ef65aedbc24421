/* What every portable kernel shares: its arguments and its tasks, which are rows. */
#ifndef QS_PORTABLE_KERNEL_H
#define QS_PORTABLE_KERNEL_H
#include "qs_abi.h"

enum { TYPE_TENSOR = 70, TENSOR_HEADER = 24 }; /* an object of TVM's own: the DLTensor stands behind its header */

typedef struct {
  DLTensor *const *tensors;
  int64_t rows;
} job;

/* Set by whoever loads the kernel. */
__attribute__((weak)) void *__TVMBackendParallelLaunch;

static void compute_row(DLTensor *const *tensors, int64_t y);

static int compute_part(int task, TVMParallelGroupEnv *env, void *data) {
  const job *j = data;
  for (int64_t y = j->rows * task / env->num_task; y < j->rows * (task + 1) / env->num_task; y++)
    compute_row(j->tensors, y);
  return 0;
}

static void take_tensors(const TVMFFIAny *arguments, int count, DLTensor **tensors) {
  for (int i = 0; i < count; i++)
    tensors[i] = (DLTensor *)((char *)arguments[i].v_ptr +
                              (arguments[i].type_index == TYPE_TENSOR ? TENSOR_HEADER : 0));
}

static int compute_rows(DLTensor *const *tensors, int64_t rows) {
  job j = {tensors, rows};
  return ((int (*)(qs_task, void *, int))__TVMBackendParallelLaunch)(compute_part, &j, 0);
}

/* `count` pixels of `pad[channels]` from `to` on, `pitch` bytes apart. */
static void fill(uint8_t *to, int64_t count, const uint8_t *pad, int channels, int pitch) {
  for (int64_t i = 0; i < count; i++, to += pitch)
    for (int c = 0; c < channels; c++) to[c] = pad[c];
}

/* The border of `output` [rows + 2*border, columns + 2*border, pitch] that belongs to `count` rows from `first` on. */
static void fill_borders(uint8_t *output, int64_t rows, int64_t columns, int64_t first, int64_t count,
                         const uint8_t *pad, int channels, int pitch, int border) {
  int64_t line = (columns + 2 * border) * pitch;
  for (int64_t y = first + border; y < first + count + border; y++) {
    fill(output + y * line, border, pad, channels, pitch);
    fill(output + y * line + (columns + border) * pitch, border, pad, channels, pitch);
  }
  for (int64_t b = 0; b < border; b++) {
    if (first == 0) fill(output + b * line, columns + 2 * border, pad, channels, pitch);
    if (first + count == rows) fill(output + (rows + border + b) * line, columns + 2 * border, pad, channels, pitch);
  }
}
#endif
