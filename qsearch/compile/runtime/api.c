/* The public functions, see the generated header. */
#include <stddef.h>

const char *QS_NAME(unsupported)(void) { return qs_unsupported(); }

qs_context *QS_NAME(create)(int num_threads) {
  return qs_unsupported() ? NULL : qs_create(num_threads);
}

void QS_NAME(destroy)(qs_context *context) {
  if (context) qs_destroy(context);
}

void QS_NAME(set_threads)(qs_context *context, int num_threads) { qs_set_threads(context, num_threads); }

int QS_NAME(threads)(const qs_context *context) { return qs_threads(context); }

void QS_NAME(set_memory_limit)(qs_context *context, uint64_t bytes) { context->memory_limit = bytes; }

int QS_NAME(upscale_image)(qs_context *context, const uint8_t *image, int64_t height, int64_t width, uint8_t *output,
                           int64_t tile) {
  return qs_upscale(context, image, height, width, output, tile);
}

uint64_t QS_NAME(workspace_bytes)(int64_t height, int64_t width) {
  if (height < QS_MIN_HEIGHT || width < QS_MIN_WIDTH || height > INT32_MAX || width > INT32_MAX) return 0;
  return qs_arena_bytes(height, width);
}

int QS_NAME(run)(qs_context *context, const uint8_t *image, int64_t height, int64_t width, uint8_t *output,
                 void *workspace) {
  int status = qs_check_size(context, height, width);
  if (status) return status;
  if ((uintptr_t)workspace % QS_ALIGN)
    return qs_fail(context, QS_BAD_SIZE, "the workspace must be aligned to %d bytes", QS_ALIGN);
  return qs_run(context, image, height, width, output, workspace);
}

const char *QS_NAME(error)(const qs_context *context) { return context->error; }

int QS_NAME(set_profile)(qs_context *context, double *step_ms) { return qs_set_profile(context, step_ms); }

const char *QS_NAME(step_name)(int step) { return step >= 0 && step < QS_NUM_STEPS ? qs_steps[step].name : NULL; }
