/* What the generator writes about one network, as data; the rest of the runtime interprets it. */
#ifndef QS_NETWORK_H
#define QS_NETWORK_H
#include "qs_abi.h"

enum { QS_SLOT_INPUT = -1, QS_SLOT_OUTPUT = -2, QS_MAX_DIMS = 8, QS_MAX_ARGS = 32 };

/* A uint8 activation [rows + 2*border, columns + 2*border, channels]. */
typedef struct {
  int32_t channels, border;
  int32_t slot; /* arena slot, or QS_SLOT_INPUT / QS_SLOT_OUTPUT for the caller's own memory */
} qs_buffer;

/* A constant in params.bin. */
typedef struct {
  int64_t offset;
  DLDataType dtype;
  int32_t ndim;
  int64_t shape[QS_MAX_DIMS];
} qs_param;

/* One kernel call: buffers first (input, skips, outputs), then parameters. */
typedef struct {
  qs_kernel kernel;
  const char *name;
  int32_t kernel_rows, kernel_columns, stride, padding_rows, padding_columns, shuffle;
  int32_t num_buffers, first_output, num_params;
  int16_t arguments[QS_MAX_ARGS];
} qs_step;

#endif
