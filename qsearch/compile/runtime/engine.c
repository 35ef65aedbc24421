/* Runs the kernels of one network on an image of any size: shapes and one arena are computed from the size. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qs_network.h"

enum { QS_ALIGN = 64, QS_SLACK = 64 /* vector loads may run past the last channel */ };

struct QS_NAME(context) {
  qs_pool pool;
  pthread_mutex_t error_lock;
  char error[256];
  uint64_t memory_limit;
  uint8_t *memory; /* workspace and staging of this context, grown on demand */
  uint64_t memory_bytes;
  DLTensor buffers[QS_NUM_BUFFERS];
  int64_t shapes[QS_NUM_BUFFERS][3];
  DLTensor params[QS_NUM_PARAMS];
  int64_t param_shapes[QS_NUM_PARAMS][QS_MAX_DIMS];
};

typedef struct QS_NAME(context) qs_context;

static qs_pool *qs_current_pool(void) {
  qs_context *context = qs_thread_owner;
  return context ? &context->pool : NULL;
}

static void qs_set_error(const char *const *parts, int num_parts) {
  qs_context *context = qs_thread_owner;
  if (context == NULL) return;
  pthread_mutex_lock(&context->error_lock);
  size_t used = 0;
  for (int i = 0; i < num_parts && used + 1 < sizeof context->error; i++)
    used += (size_t)snprintf(context->error + used, sizeof context->error - used, "%s", parts[i]);
  pthread_mutex_unlock(&context->error_lock);
}

static int qs_fail(qs_context *context, int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(context->error, sizeof context->error, format, arguments);
  va_end(arguments);
  return status;
}

static uint64_t qs_round_up(uint64_t bytes) { return (bytes + QS_ALIGN - 1) / QS_ALIGN * QS_ALIGN; }

/* Rows and columns of every buffer, borders not counted. */
static void qs_sizes(int64_t height, int64_t width, int64_t sizes[QS_NUM_BUFFERS][2]) {
  sizes[QS_INPUT][0] = height;
  sizes[QS_INPUT][1] = width;
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
    return qs_fail(context, QS_BAD_SIZE, "the image is %lldx%lld: this network needs at least %dx%d (width x height)",
                   (long long)width, (long long)height, QS_MIN_WIDTH, QS_MIN_HEIGHT);
  if (height > INT32_MAX / QS_UPSCALE || width > INT32_MAX / QS_UPSCALE)
    return qs_fail(context, QS_BAD_SIZE, "the image is %lldx%lld: too large", (long long)width, (long long)height);
  return 0;
}

/* Makes the context's own memory at least `bytes` large; the content is lost. */
static int qs_reserve(qs_context *context, uint64_t bytes) {
  if (bytes <= context->memory_bytes) return 0;
  free(context->memory);
  context->memory = bytes > SIZE_MAX / 2 ? NULL : aligned_alloc(QS_ALIGN, qs_round_up(bytes));
  context->memory_bytes = context->memory ? bytes : 0;
  if (context->memory) return 0;
  return qs_fail(context, QS_NO_MEMORY, "cannot allocate %llu MiB of working memory: use smaller tiles",
                 (unsigned long long)(bytes >> 20));
}

static int qs_call(qs_context *context, const qs_step *step) {
  TVMFFIAny arguments[QS_MAX_ARGS], result = {0};
  int count = step->num_buffers + step->num_params;
  for (int a = 0; a < count; a++) {
    int index = step->arguments[a];
    arguments[a] = (TVMFFIAny){.type_index = QS_TYPE_DLTENSOR};
    arguments[a].v_ptr = a < step->num_buffers ? &context->buffers[index] : &context->params[index];
  }
  context->error[0] = 0;
  if (step->kernel(NULL, arguments, count, &result) == 0) return 0;
  char reason[128];
  snprintf(reason, sizeof reason, "%s", context->error);
  return qs_fail(context, QS_KERNEL_FAILED, "kernel %s failed: %s", step->name, reason);
}

/* One whole image. The arena is aligned to QS_ALIGN; image and output may lie anywhere. */
static int qs_run(qs_context *context, const uint8_t *input, int64_t height, int64_t width, uint8_t *output,
                  uint8_t *arena) {
  int64_t sizes[QS_NUM_BUFFERS][2];
  uint64_t offsets[QS_NUM_SLOTS + 1];
  if (qs_arena(height, width, sizes, offsets) == 0)
    return qs_fail(context, QS_BAD_SIZE, "a buffer would pass 2 GiB: use tiles");
  for (int i = 0; i < QS_NUM_BUFFERS; i++) {
    const qs_buffer *b = &qs_buffers[i];
    context->shapes[i][0] = sizes[i][0] + 2 * b->border;
    context->shapes[i][1] = sizes[i][1] + 2 * b->border;
    context->shapes[i][2] = b->channels;
    context->buffers[i].data = b->slot == QS_SLOT_INPUT    ? (void *)(uintptr_t)input
                               : b->slot == QS_SLOT_OUTPUT ? output
                                                           : arena + offsets[b->slot];
  }
  void *previous = qs_thread_owner;
  qs_thread_owner = context;
  int status = 0;
  for (int i = 0; i < QS_NUM_STEPS && status == 0; i++) {
    qs_pool_plan(&context->pool, sizes[qs_steps[i].arguments[0]][0]);
    status = qs_call(context, &qs_steps[i]);
  }
  qs_thread_owner = previous;
  return status;
}

static qs_context *qs_create(int num_threads) {
  qs_context *context = calloc(1, sizeof *context);
  if (context == NULL) return NULL;
  context->memory_limit = QS_MEMORY_LIMIT;
  pthread_mutex_init(&context->error_lock, NULL);
  for (int i = 0; i < QS_NUM_BUFFERS; i++)
    context->buffers[i] = (DLTensor){NULL, {QS_DEVICE_CPU, 0}, 3, {1, 8, 1}, context->shapes[i], NULL, 0};
  for (int i = 0; i < QS_NUM_PARAMS; i++) {
    const qs_param *p = &qs_params[i];
    memcpy(context->param_shapes[i], p->shape, sizeof p->shape);
    context->params[i] = (DLTensor){(void *)(uintptr_t)(qs_param_data + p->offset),
                                    {QS_DEVICE_CPU, 0},
                                    p->ndim,
                                    p->dtype,
                                    context->param_shapes[i],
                                    NULL,
                                    0};
  }
  qs_pool_start(&context->pool, num_threads, context);
  return context;
}
