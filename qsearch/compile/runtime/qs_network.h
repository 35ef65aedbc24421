/* What the generator writes about one network, as data; the rest of the runtime interprets it. */
#ifndef QS_NETWORK_H
#define QS_NETWORK_H
#include "qs_abi.h"

enum { QS_ALIGN = 64 };

static inline uint64_t qs_round_up(uint64_t bytes) { return (bytes + QS_ALIGN - 1) / QS_ALIGN * QS_ALIGN; }

enum { QS_SLOT_INPUT = -1, QS_SLOT_OUTPUT = -2 };

/* A uint8 activation [rows + 2*border, columns + 2*border, channels]. */
typedef struct {
  int32_t channels, border;
  int32_t slot; /* arena slot, or QS_SLOT_INPUT / QS_SLOT_OUTPUT for the caller's own memory */
} qs_buffer;

/* How unpacked weights follow from stored ones, see params.c. */
typedef struct {
  int32_t rows, taps, num_parts;
  const int32_t *sizes; /* bytes of one row of every part */
  const int8_t *matrix; /* [rows][taps] */
} qs_transform;

/* A vector of constants in params.bin; there are many, so that their size matters. */
typedef struct {
  const qs_transform *transform; /* of the stored values, or NULL */
  uint32_t offset;
  int32_t count; /* of values; 0 stands for no vector at all */
  DLDataType dtype;
  uint8_t bits; /* of every stored value, 1 to 8 for packed int8; 0: stored as dtype says */
} qs_param;

/* One kernel call: buffers first (input, skips, outputs), then parameters. */
typedef struct {
  qs_kernel kernel;
  const char *name;
  int16_t kernel_rows, kernel_columns, stride, padding_rows, padding_columns, shuffle;
  int16_t num_buffers, first_output, num_params;
  int16_t arguments[QS_MAX_ARGS];
} qs_step;

/* How an OpenCL device runs a step: work items are (block of channels, tile of `pixels`, row) of the accumulators, or of
 * the whole bordered buffer where `border` is not 0. */
typedef struct {
  const char *kernel;
  int32_t blocks, pixels, border;
} qs_launch;

#endif
