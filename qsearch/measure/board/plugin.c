/* A module for TVM's own RPC server: `qsearch_run(timeout_ms)` runs the command in the folder of this library. */
#include "exec.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

typedef struct {
  int32_t type_index;
  uint32_t padding;
  int64_t value;
} any; /* TVMFFIAny with an integer in it, whose type_index is 1 */

__attribute__((visibility("default"))) int32_t __tvm_ffi_qsearch_run(void *self, const any *arguments, int32_t count,
                                                                     any *result);

int32_t __tvm_ffi_qsearch_run(void *self, const any *arguments, int32_t count, any *result) {
  (void)self;
  char folder[4096];
  Dl_info here;
  int64_t status = -1;
  if (count == 1 && dladdr((void *)(uintptr_t)__tvm_ffi_qsearch_run, &here) && strlen(here.dli_fname) < sizeof folder) {
    char *end = strrchr(strcpy(folder, here.dli_fname), '/');
    if (end) *end = 0;
    status = qs_exec(end ? folder : ".", arguments[0].value);
  }
  *result = (any){1, 0, status};
  return 0;
}
