/* Runs the kernels of one network on an image of any size: shapes and one arena are computed from the size. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "qs_network.h"

struct QS_NAME(context) {
  qs_pool pool;
  pthread_mutex_t error_lock;
  QS_ROOM(error_lock, pthread_mutex_t);
  char error[256];
  uint64_t memory_limit;
  uint8_t *memory; /* workspace and staging of this context, grown on demand */
  uint64_t memory_bytes;
  uint8_t *unpacked; /* parameters that are stored with fewer bits */
  double *step_ms; /* where the time of every step is added, or NULL */
#ifdef QS_NUM_LEVELS
  double *stage_ms; /* the same for the stages of patches.c */
  const struct qs_work *work; /* the patches that seamless.c runs */
#endif
  int first_step, end_step; /* what qs_run runs: of a network for patches, the steps of one level */
  DLTensor buffers[QS_NUM_BUFFERS];
  int64_t shapes[QS_NUM_BUFFERS][3];
  DLTensor params[QS_NUM_PARAMS];
  int64_t param_shapes[QS_NUM_PARAMS];
};

typedef struct QS_NAME(context) qs_context;
#include "sizes.c"

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
    used += qs_format(context->error + used, sizeof context->error - used, "%s", parts[i]);
  pthread_mutex_unlock(&context->error_lock);
}

/* A step's kernel on `buffers`, in the order of its arguments, or where NULL on those of the context. */
static int qs_call_kernel(qs_context *context, const qs_step *step, DLTensor *buffers) {
  TVMFFIAny arguments[QS_MAX_ARGS], result = {0};
  int count = step->num_buffers + step->num_params;
  for (int a = 0; a < count; a++) {
    int index = step->arguments[a];
    arguments[a] = (TVMFFIAny){.type_index = QS_TYPE_DLTENSOR};
    arguments[a].v_ptr = a >= step->num_buffers ? &context->params[index]
                         : buffers              ? &buffers[a]
                                                : &context->buffers[index];
  }
  return step->kernel(NULL, arguments, count, &result);
}

static int qs_kernel_failed(qs_context *context, const qs_step *step) {
  char reason[128];
  qs_format(reason, sizeof reason, "%s", context->error);
  return qs_fail(context, QS_KERNEL_FAILED, "kernel %s failed: %s", step->name, reason);
}

static int qs_call(qs_context *context, const qs_step *step) {
  context->error[0] = 0;
  return qs_call_kernel(context, step, NULL) ? qs_kernel_failed(context, step) : 0;
}

static double qs_now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* The part of the working memory that the host provides: all of it. */
static inline uint64_t qs_host_bytes(uint64_t arena) { return arena; }

/* Places all buffers for one whole image. The arena is aligned to QS_ALIGN; image and output may lie anywhere. */
static int qs_bind(qs_context *context, const uint8_t *input, int64_t height, int64_t width, uint8_t *output,
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
  return 0;
}

/* One step on the buffers as they are. */
static int qs_run_step(qs_context *context, int i) {
  const int input = qs_steps[i].arguments[0];
  qs_pool_plan(&context->pool, context->shapes[input][0] - 2 * qs_buffers[input].border);
  double start = context->step_ms ? qs_now_ms() : 0;
  int status = qs_call(context, &qs_steps[i]);
  if (context->step_ms) context->step_ms[i] += qs_now_ms() - start;
  return status;
}

/* One whole image, as qs_bind takes it. Seamless patches that no classifier decides about do without. */
static inline int qs_run(qs_context *context, const uint8_t *input, int64_t height, int64_t width, uint8_t *output,
                         uint8_t *arena) {
  int status = qs_bind(context, input, height, width, output, arena);
  if (status) return status;
  void *previous = qs_thread_owner;
  qs_scratch *previous_scratch = qs_thread_scratch;
  qs_thread_owner = context;
  qs_thread_scratch = context->pool.scratch;
  for (int i = context->first_step; i < context->end_step && status == 0; i++) status = qs_run_step(context, i);
  qs_thread_owner = previous;
  qs_thread_scratch = previous_scratch;
  return status;
}

static qs_context *qs_create(int num_threads) {
  qs_context *context = calloc(1, sizeof *context);
  if (context == NULL) return NULL;
  uint64_t unpacked_bytes = qs_unpacked_bytes();
  context->unpacked = unpacked_bytes ? aligned_alloc(QS_ALIGN, unpacked_bytes) : NULL;
  if (unpacked_bytes && context->unpacked == NULL) {
    free(context);
    return NULL;
  }
  uint8_t *unpacked = context->unpacked;
  context->memory_limit = QS_MEMORY_LIMIT;
  context->end_step = QS_NUM_STEPS;
  pthread_mutex_init(&context->error_lock, NULL);
  for (int i = 0; i < QS_NUM_BUFFERS; i++)
    context->buffers[i] = (DLTensor){NULL, {QS_DEVICE_CPU, 0}, 3, {1, 8, 1}, context->shapes[i], NULL, 0};
  for (int i = 0; i < QS_NUM_PARAMS; i++) {
    const qs_param *p = &qs_params[i];
    context->param_shapes[i] = p->count;
    context->params[i] = (DLTensor){qs_param_address(i, &unpacked), {QS_DEVICE_CPU, 0}, 1, p->dtype,
                                    &context->param_shapes[i],      NULL,              0};
  }
  qs_pool_start(&context->pool, num_threads, context);
  return context;
}

static void qs_destroy(qs_context *context) {
  qs_pool_stop(&context->pool);
  pthread_mutex_destroy(&context->error_lock);
  free(context->memory);
  free(context->unpacked);
  free(context);
}

static void qs_set_threads(qs_context *context, int num_threads) {
  qs_pool_stop(&context->pool);
  qs_pool_start(&context->pool, num_threads, context);
}

static int qs_threads(const qs_context *context) { return context->pool.num_threads; }

static int qs_set_profile(qs_context *context, double *step_ms) {
  context->step_ms = step_ms;
  return 0;
}

/* One line that names what the kernels need and this machine lacks, or NULL. */
static const char *qs_unsupported(void) { return qs_missing_instructions(); }
