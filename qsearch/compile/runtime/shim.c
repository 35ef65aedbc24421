/* The functions that a kernel object expects of the TVM runtime. Their symbols carry the network's name (the builder
 * renames them inside the kernel objects), so that several networks can live in one program. */
#include <stdlib.h>
#include <string.h>

#include "qs_abi.h"

/* Both are defined by engine.c, where a context is known. */
static void qs_set_error(const char *const *parts, int num_parts);
static qs_pool *qs_current_pool(void);

void QS_NAME(TVMFFIErrorSetRaisedFromCStrParts)(const char *kind, const char **parts, int32_t num_parts) {
  (void)kind;
  qs_set_error(parts, num_parts);
}

void QS_NAME(TVMFFIErrorSetRaisedFromCStr)(const char *kind, const char *message) {
  (void)kind;
  qs_set_error(&message, 1);
}

static int qs_parallel_launch(qs_task task, void *data, int num_task) {
  TVMParallelGroupEnv serial = {NULL, 1};
  qs_pool *pool = qs_current_pool();
  (void)num_task; /* a kernel that asks for a number of tasks accepts fewer */
  if (pool == NULL || qs_in_task || pool->num_threads == 1) return task(0, &serial, data);
  return qs_pool_launch(pool, task, data);
}

static void *qs_workspace_alloc(int device_type, int device_id, uint64_t bytes, int dtype_code, int dtype_bits) {
  (void)device_type, (void)device_id, (void)dtype_code, (void)dtype_bits;
  qs_scratch *scratch = qs_thread_scratch;
  bytes = qs_round_up(bytes);
  if (scratch == NULL || bytes > QS_SCRATCH - scratch->used) return aligned_alloc(QS_ALIGN, bytes);
  uint8_t *memory = scratch->memory + scratch->used;
  scratch->used += bytes;
  scratch->living++;
  return memory;
}

static int qs_workspace_free(int device_type, int device_id, void *memory) {
  (void)device_type, (void)device_id;
  qs_scratch *scratch = qs_thread_scratch;
  if (scratch == NULL || (uintptr_t)memory - (uintptr_t)scratch->memory >= QS_SCRATCH)
    free(memory);
  else if (--scratch->living == 0)
    scratch->used = 0;
  return 0;
}

/* Kernels call these through pointers. */
void *QS_NAME(__TVMBackendParallelLaunch) = (void *)qs_parallel_launch;
void *QS_NAME(__TVMBackendAllocWorkspace) = (void *)qs_workspace_alloc;
void *QS_NAME(__TVMBackendFreeWorkspace) = (void *)qs_workspace_free;
