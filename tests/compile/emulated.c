/* Runs compiled kernels as standard input says and writes the tensors that it asks for to standard output.
 * Words are little-endian int64. 1: a tensor (code, bits, misalignment, dimensions, shape..., bytes, data...), numbered
 * from 0; without data its bytes are noise. 2: a call (function, arguments, tensors...). 3: output of a tensor. 4: all
 * tensors are forgotten. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qs_abi.h"

#define KERNEL(name) int32_t name(void *, const TVMFFIAny *, int32_t, TVMFFIAny *);
#include "kernels.h"
#undef KERNEL
#define KERNEL(name) name,
static const qs_kernel kernels[] = {
#include "kernels.h"
};

enum { MOST_TENSORS = 4096, MOST_ARGUMENTS = 64, TASKS = 3, SLACK = 64 };
static DLTensor tensors[MOST_TENSORS];
static int64_t shapes[MOST_TENSORS][8];
static uint64_t sizes[MOST_TENSORS];
static void *memory[MOST_TENSORS];
static int count;

void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t num_parts) {
  for (int i = 0; i < num_parts; i++) fprintf(stderr, "%s: %s\n", kind, parts[i]);
}

static int launch(qs_task task, void *data, int num_task) {
  TVMParallelGroupEnv env = {NULL, TASKS};
  (void)num_task;
  for (int i = TASKS; i-- > 0;)
    if (task(i, &env, data)) return -1;
  return 0;
}

static void *workspace(int type, int id, uint64_t bytes, int code, int bits) {
  (void)type, (void)id, (void)code, (void)bits;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static int release(int type, int id, void *pointer) {
  (void)type, (void)id;
  free(pointer);
  return 0;
}

void *__TVMBackendParallelLaunch = (void *)launch;
void *__TVMBackendAllocWorkspace = (void *)workspace;
void *__TVMBackendFreeWorkspace = (void *)release;

static int64_t word(void) {
  int64_t value;
  if (fread(&value, sizeof value, 1, stdin) != 1) exit(0);
  return value;
}

static void read_tensor(void) {
  DLDataType type = {(uint8_t)word(), (uint8_t)word(), 1};
  int64_t misalignment = word(), dimensions = word();
  uint64_t size = type.bits / 8;
  for (int i = 0; i < dimensions; i++) size *= (uint64_t)(shapes[count][i] = word());
  uint64_t given = (uint64_t)word();
  memory[count] = aligned_alloc(64, (size + SLACK + 127) / 64 * 64);
  uint8_t *data = (uint8_t *)memory[count] + misalignment;
  if (given == 0) memset(data, 0xAA, size);
  else if (fread(data, 1, given, stdin) != given) exit(1);
  sizes[count] = size;
  tensors[count] = (DLTensor){data, {QS_DEVICE_CPU, 0}, (int32_t)dimensions, type, shapes[count], NULL, 0};
  count++;
}

static void call(void) {
  TVMFFIAny arguments[MOST_ARGUMENTS], result = {0};
  int64_t kernel = word(), number = word();
  for (int i = 0; i < number; i++) {
    arguments[i] = (TVMFFIAny){.type_index = QS_TYPE_DLTENSOR};
    arguments[i].v_ptr = &tensors[word()];
  }
  if (kernels[kernel](NULL, arguments, (int32_t)number, &result)) exit(2);
}

int main(void) {
  for (;;) {
    int64_t command = word();
    if (command == 1) read_tensor();
    if (command == 2) call();
    if (command == 3) {
      int64_t tensor = word();
      fwrite(tensors[tensor].data, 1, sizes[tensor], stdout);
    }
    if (command == 4) {
      while (count > 0) free(memory[--count]);
    }
  }
}
