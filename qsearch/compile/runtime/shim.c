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

/* Kernels ask for small temporaries in every task: they come from a block of the thread that empties itself when the
 * last one is returned, and only what does not fit comes from the heap. */
enum { QS_SCRATCH = 32 << 10 };
static _Thread_local struct {
  _Alignas(64) uint8_t memory[QS_SCRATCH];
  uint64_t used;
  int living;
} qs_scratch;

static void *qs_workspace_alloc(int device_type, int device_id, uint64_t bytes, int dtype_code, int dtype_bits) {
  (void)device_type, (void)device_id, (void)dtype_code, (void)dtype_bits;
  bytes = (bytes + 63) / 64 * 64;
  if (bytes > QS_SCRATCH - qs_scratch.used) return aligned_alloc(64, bytes);
  uint8_t *memory = qs_scratch.memory + qs_scratch.used;
  qs_scratch.used += bytes;
  qs_scratch.living++;
  return memory;
}

static int qs_workspace_free(int device_type, int device_id, void *memory) {
  (void)device_type, (void)device_id;
  if ((uintptr_t)memory - (uintptr_t)qs_scratch.memory >= QS_SCRATCH)
    free(memory);
  else if (--qs_scratch.living == 0)
    qs_scratch.used = 0;
  return 0;
}

/* Kernels call these through pointers. */
void *QS_NAME(__TVMBackendParallelLaunch) = (void *)qs_parallel_launch;
void *QS_NAME(__TVMBackendAllocWorkspace) = (void *)qs_workspace_alloc;
void *QS_NAME(__TVMBackendFreeWorkspace) = (void *)qs_workspace_free;
