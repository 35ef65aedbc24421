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

const char *QS_NAME(error)(const qs_context *context) { return context->error; }

int QS_NAME(set_profile)(qs_context *context, double *step_ms) { return qs_set_profile(context, step_ms); }

const char *QS_NAME(step_name)(int step) { return step >= 0 && step < QS_NUM_STEPS ? qs_steps[step].name : NULL; }
