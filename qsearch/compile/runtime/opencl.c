/* Runs the kernels of one network on an OpenCL device. Parameters are uploaded once; buffers and kernel arguments stay
 * as long as the image size does. */
#include <stdlib.h>

#include "qs_network.h"

struct QS_NAME(context) {
  char error[256];
  uint64_t memory_limit;
  uint8_t *memory; /* staging of tiles, grown on demand */
  uint64_t memory_bytes;
  double *step_ms; /* where the time of every step is added, or NULL */
  qs_cl queue, kernels[QS_NUM_STEPS], params[QS_NUM_PARAMS];
  qs_cl memories[QS_NUM_SLOTS + 2]; /* arena slots, then input and output */
  uint64_t memories_bytes[QS_NUM_SLOTS + 2];
  int64_t height, width; /* that the arguments are set for */
  size_t global[QS_NUM_STEPS][3], local[QS_NUM_STEPS][3];
};

typedef struct QS_NAME(context) qs_context;
#include "sizes.c"

/* The arena lies on the device. */
static uint64_t qs_host_bytes(uint64_t arena) { return (void)arena, 0; }

static int qs_cl_fail(qs_context *context, int32_t error, const char *what) {
  if (error == CL_MEM_OBJECT_ALLOCATION_FAILURE || error == CL_OUT_OF_RESOURCES || error == CL_OUT_OF_HOST_MEMORY ||
      error == CL_INVALID_BUFFER_SIZE)
    return qs_fail(context, QS_NO_MEMORY, "the OpenCL device has not enough memory (%s, %d): use smaller tiles", what,
                   error);
  return qs_fail(context, QS_KERNEL_FAILED, "OpenCL error %d in %s", error, what);
}

static int qs_memory_of(const qs_buffer *buffer) {
  return buffer->slot == QS_SLOT_INPUT    ? QS_NUM_SLOTS
         : buffer->slot == QS_SLOT_OUTPUT ? QS_NUM_SLOTS + 1
                                          : buffer->slot;
}

static uint64_t qs_buffer_bytes(int index, const int64_t size[2]) {
  const qs_buffer *b = &qs_buffers[index];
  return (uint64_t)((size[0] + 2 * b->border) * (size[1] + 2 * b->border) * b->channels);
}

/* Makes every memory large enough. */
static int qs_allocate(qs_context *context, int64_t sizes[QS_NUM_BUFFERS][2]) {
  for (int i = 0; i < QS_NUM_BUFFERS; i++) {
    int m = qs_memory_of(&qs_buffers[i]);
    uint64_t bytes = qs_round_up(qs_buffer_bytes(i, sizes[i]));
    if (bytes <= context->memories_bytes[m]) continue;
    if (context->memories[m]) clReleaseMemObject(context->memories[m]);
    int32_t error = 0;
    context->memories[m] = clCreateBuffer(qs_gpu.context, CL_MEM_READ_WRITE, (size_t)bytes, NULL, &error);
    context->memories_bytes[m] = error ? 0 : bytes;
    if (error) return context->memories[m] = NULL, qs_cl_fail(context, error, "clCreateBuffer");
  }
  return 0;
}

/* Work items of one step: (block of channels, tile of pixels, row). Groups are whole: a driver that finds no divisor of
 * the numbers would run single work items, so the numbers are rounded up and the kernels ignore the excess. */
static void qs_choose_range(qs_context *context, int step, int64_t rows, int64_t columns) {
  const qs_launch *launch = &qs_launches[step];
  size_t *global = context->global[step], *local = context->local[step], most = 0;
  if (clGetKernelWorkGroupInfo(context->kernels[step], qs_gpu.device, CL_KERNEL_WORK_GROUP_SIZE, sizeof most, &most,
                               NULL) != 0 || most < 1)
    most = 1;
  if (most > QS_WORK_ITEMS) most = QS_WORK_ITEMS;
  const int64_t border = 2 * launch->border;
  global[0] = (size_t)launch->blocks;
  global[1] = (size_t)((columns + border + launch->pixels - 1) / launch->pixels);
  global[2] = (size_t)(rows + border);
  local[0] = global[0] < most ? global[0] : most;
  while (global[0] % local[0]) local[0]--;
  size_t items = local[0];
  for (int i = 1; i < 3; i++) {
    for (local[i] = 1; local[i] < global[i] && items * 2 <= most; items *= 2) local[i] *= 2;
    global[i] = (global[i] + local[i] - 1) / local[i] * local[i];
  }
}

static int qs_set_arguments(qs_context *context, int step, int64_t sizes[QS_NUM_BUFFERS][2]) {
  const qs_step *s = &qs_steps[step];
  const int64_t *in = sizes[s->arguments[0]], *out = sizes[s->arguments[s->first_output]];
  int32_t numbers[3] = {(int32_t)(in[1] + 2 * qs_buffers[s->arguments[0]].border), (int32_t)(out[0] / s->shuffle),
                        (int32_t)(out[1] / s->shuffle)};
  qs_cl kernel = context->kernels[step];
  int32_t error = 0;
  uint32_t count = (uint32_t)(s->num_buffers + s->num_params);
  for (uint32_t a = 0; a < count && error == 0; a++) {
    int index = s->arguments[a], buffer = (int)a < s->num_buffers;
    qs_cl *memory = buffer ? &context->memories[qs_memory_of(&qs_buffers[index])] : &context->params[index];
    error = clSetKernelArg(kernel, a, sizeof *memory, memory);
  }
  for (uint32_t n = 0; n < 3 && error == 0; n++)
    error = clSetKernelArg(kernel, count + n, sizeof numbers[n], &numbers[n]);
  qs_choose_range(context, step, numbers[1], numbers[2]);
  return error ? qs_cl_fail(context, error, s->name) : 0;
}

/* Allocates and sets arguments for images of height x width, unless that is what they are set for. */
static int qs_bind(qs_context *context, int64_t height, int64_t width, int64_t sizes[QS_NUM_BUFFERS][2]) {
  if (context->height == height && context->width == width) return 0;
  context->height = context->width = 0;
  int status = qs_allocate(context, sizes);
  for (int i = 0; i < QS_NUM_STEPS && status == 0; i++) status = qs_set_arguments(context, i, sizes);
  if (status) return status;
  context->height = height;
  context->width = width;
  return 0;
}

static void qs_add_times(qs_context *context, qs_cl events[QS_NUM_STEPS]) {
  for (int i = 0; i < QS_NUM_STEPS; i++) {
    uint64_t start = 0, end = 0;
    clGetEventProfilingInfo(events[i], CL_PROFILING_COMMAND_START, sizeof start, &start, NULL);
    clGetEventProfilingInfo(events[i], CL_PROFILING_COMMAND_END, sizeof end, &end, NULL);
    context->step_ms[i] += (double)(end - start) * 1e-6;
  }
}

/* One whole image. The arena lies on the device: `arena` is not used. */
static int qs_run(qs_context *context, const uint8_t *input, int64_t height, int64_t width, uint8_t *output,
                  uint8_t *arena) {
  int64_t sizes[QS_NUM_BUFFERS][2];
  uint64_t offsets[QS_NUM_SLOTS + 1];
  (void)arena;
  if (qs_arena(height, width, sizes, offsets) == 0)
    return qs_fail(context, QS_BAD_SIZE, "a buffer would pass 2 GiB: use tiles");
  int status = qs_bind(context, height, width, sizes);
  if (status) return status;
  qs_cl events[QS_NUM_STEPS] = {NULL};
  size_t input_bytes = (size_t)qs_buffer_bytes(QS_INPUT, sizes[QS_INPUT]);
  size_t output_bytes = (size_t)qs_buffer_bytes(QS_OUTPUT, sizes[QS_OUTPUT]);
  const char *what = "clEnqueueWriteBuffer";
  int32_t error = clEnqueueWriteBuffer(context->queue, context->memories[QS_NUM_SLOTS], 0, 0, input_bytes, input, 0,
                                       NULL, NULL);
  for (int i = 0; i < QS_NUM_STEPS && error == 0; i++) {
    what = qs_steps[i].name;
    error = clEnqueueNDRangeKernel(context->queue, context->kernels[i], 3, NULL, context->global[i], context->local[i],
                                   0, NULL, context->step_ms ? &events[i] : NULL);
  }
  if (error == 0) {
    what = "clEnqueueReadBuffer";
    error = clEnqueueReadBuffer(context->queue, context->memories[QS_NUM_SLOTS + 1], 1, 0, output_bytes, output, 0,
                                NULL, NULL);
  } else {
    clFinish(context->queue); /* the caller's image is still being read */
  }
  if (error == 0 && context->step_ms) qs_add_times(context, events);
  for (int i = 0; i < QS_NUM_STEPS; i++)
    if (events[i]) clReleaseEvent(events[i]);
  return error ? qs_cl_fail(context, error, what) : 0;
}

static int qs_set_profile(qs_context *context, double *step_ms) {
  int32_t error = 0;
  uint64_t properties = step_ms ? CL_QUEUE_PROFILING_ENABLE : 0;
  qs_cl queue = clCreateCommandQueue(qs_gpu.context, qs_gpu.device, properties, &error);
  if (error) return qs_cl_fail(context, error, "clCreateCommandQueue");
  if (context->queue) clReleaseCommandQueue(context->queue);
  context->queue = queue;
  context->step_ms = step_ms;
  return 0;
}

static void qs_destroy(qs_context *context) {
  for (int i = 0; i < QS_NUM_STEPS; i++)
    if (context->kernels[i]) clReleaseKernel(context->kernels[i]);
  for (int i = 0; i < QS_NUM_PARAMS; i++)
    if (context->params[i]) clReleaseMemObject(context->params[i]);
  for (int i = 0; i < QS_NUM_SLOTS + 2; i++)
    if (context->memories[i]) clReleaseMemObject(context->memories[i]);
  if (context->queue) clReleaseCommandQueue(context->queue);
  free(context->memory);
  free(context);
}

/* Uploads all parameters; returns an OpenCL error. */
static int32_t qs_upload(qs_context *context) {
  uint64_t unpacked_bytes = qs_unpacked_bytes();
  uint8_t *unpacked = unpacked_bytes ? malloc(unpacked_bytes) : NULL, *next = unpacked;
  int32_t error = unpacked_bytes && unpacked == NULL ? CL_OUT_OF_HOST_MEMORY : 0;
  for (int i = 0; i < QS_NUM_PARAMS && error == 0; i++) {
    size_t bytes = (size_t)qs_params[i].count * qs_params[i].dtype.bits / 8;
    if (bytes == 0) continue; /* stands for none at all */
    void *data = qs_param_address(i, &next);
    context->params[i] = clCreateBuffer(qs_gpu.context, CL_MEM_READ_ONLY_COPY, bytes, data, &error);
  }
  free(unpacked);
  return error;
}

static qs_context *qs_create(int num_threads) {
  (void)num_threads;
  qs_context *context = calloc(1, sizeof *context);
  if (context == NULL) return NULL;
  context->memory_limit = QS_MEMORY_LIMIT;
  int32_t error = qs_set_profile(context, NULL);
  if (error == 0) error = qs_upload(context);
  for (int i = 0; i < QS_NUM_STEPS && error == 0; i++)
    context->kernels[i] = clCreateKernel(qs_gpu.program, qs_launches[i].kernel, &error);
  if (error == 0) return context;
  qs_destroy(context);
  return NULL;
}

/* The device decides how many threads it uses. */
static void qs_set_threads(qs_context *context, int num_threads) { (void)context, (void)num_threads; }
static int qs_threads(const qs_context *context) { return (void)context, 1; }
