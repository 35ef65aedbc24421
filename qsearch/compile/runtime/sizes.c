/* What every engine shares: errors, sizes of all buffers, and the context's own memory. The including engine has defined
 * qs_context with `error`, `memory_limit`, `memory` and `memory_bytes`. */
#include <stdlib.h>

#include "qs_network.h"

enum { QS_SLACK = 64 /* vector loads may run past the last channel */ };

static int qs_fail(qs_context *context, int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  qs_format_list(context->error, sizeof context->error, format, arguments);
  va_end(arguments);
  return status;
}

/* Rows and columns of every buffer, borders not counted. */
static void qs_sizes(int64_t height, int64_t width, int64_t sizes[QS_NUM_BUFFERS][2]) {
  for (int i = 0; i < QS_NUM_BUFFERS; i++) sizes[i][0] = height, sizes[i][1] = width; /* those that no step writes */
  for (int i = 0; i < QS_NUM_STEPS; i++) {
    const qs_step *s = &qs_steps[i];
    const int64_t *in = sizes[s->arguments[0]];
    int64_t rows = (in[0] + 2 * s->padding_rows - s->kernel_rows) / s->stride + 1;
    int64_t columns = (in[1] + 2 * s->padding_columns - s->kernel_columns) / s->stride + 1;
    for (int a = s->first_output; a < s->num_buffers; a++) {
      sizes[s->arguments[a]][0] = rows * s->shuffle;
      sizes[s->arguments[a]][1] = columns * s->shuffle;
    }
  }
}

/* Offsets of the arena's slots for an image of height x width; returns the arena's bytes, or 0 where a buffer would
 * pass the 2 GiB that 32-bit indices reach. */
static uint64_t qs_arena(int64_t height, int64_t width, int64_t sizes[QS_NUM_BUFFERS][2],
                         uint64_t offsets[QS_NUM_SLOTS + 1]) {
  uint64_t bytes[QS_NUM_SLOTS + 1] = {0}, total = 0;
  qs_sizes(height, width, sizes);
  for (int i = 0; i < QS_NUM_BUFFERS; i++) {
    const qs_buffer *b = &qs_buffers[i];
    uint64_t rows = (uint64_t)(sizes[i][0] + 2 * b->border), columns = (uint64_t)(sizes[i][1] + 2 * b->border);
    uint64_t size = rows * columns * (uint64_t)b->channels;
    if (rows > INT32_MAX || columns > INT32_MAX || rows * columns > INT32_MAX || size > INT32_MAX) return 0;
    if (b->slot >= 0 && size > bytes[b->slot]) bytes[b->slot] = size;
  }
  for (int i = 0; i < QS_NUM_SLOTS; i++) {
    offsets[i] = total;
    total += qs_round_up(bytes[i] + QS_SLACK);
  }
  return total ? total : QS_ALIGN;
}

static uint64_t qs_arena_bytes(int64_t height, int64_t width) {
  int64_t sizes[QS_NUM_BUFFERS][2];
  uint64_t offsets[QS_NUM_SLOTS + 1];
  return qs_arena(height, width, sizes, offsets);
}

static int qs_check_size(qs_context *context, int64_t height, int64_t width) {
  if (height < QS_MIN_HEIGHT || width < QS_MIN_WIDTH)
    return qs_fail(context, QS_BAD_SIZE, "the image is %lx%l: this network needs at least %dx%d (width x height)",
                   width, height, QS_MIN_WIDTH, QS_MIN_HEIGHT);
  if (height > INT32_MAX / QS_UPSCALE || width > INT32_MAX / QS_UPSCALE)
    return qs_fail(context, QS_BAD_SIZE, "the image is %lx%l: too large", width, height);
  return 0;
}

/* Makes the context's own memory at least `bytes` large; the content is lost. */
static int qs_reserve(qs_context *context, uint64_t bytes) {
  if (bytes <= context->memory_bytes) return 0;
  free(context->memory);
  context->memory = bytes > SIZE_MAX / 2 ? NULL : aligned_alloc(QS_ALIGN, qs_round_up(bytes));
  context->memory_bytes = context->memory ? bytes : 0;
  if (context->memory) return 0;
  return qs_fail(context, QS_NO_MEMORY, "cannot allocate %l MiB of working memory: use smaller tiles",
                 (int64_t)(bytes >> 20));
}
