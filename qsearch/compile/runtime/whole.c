/* The public functions of a network that takes whole images, see the generated header. */
#include <stddef.h>

int QS_NAME(upscale_image)(qs_context *context, const uint8_t *image, int64_t height, int64_t width, uint8_t *output,
                           int64_t tile) {
  return qs_upscale(context, image, height, width, output, tile, context->memory_limit);
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
