/* The part of the TVM and DLPack binary interfaces that compiled kernels use, so that no TVM header is needed.
 * Source: dlpack.h (v1), tvm/ffi/c_api.h and tvm/runtime/c_backend_api.h of TVM 0.27. */
#ifndef QS_ABI_H
#define QS_ABI_H
#include <stdint.h>

typedef struct {
  int32_t device_type, device_id;
} DLDevice;

typedef struct {
  uint8_t code, bits; /* code: 0 signed, 1 unsigned, 2 float */
  uint16_t lanes;
} DLDataType;

typedef struct {
  void *data;
  DLDevice device;
  int32_t ndim;
  DLDataType dtype;
  int64_t *shape;
  int64_t *strides;
  uint64_t byte_offset;
} DLTensor;

enum { QS_DEVICE_CPU = 1, QS_TYPE_DLTENSOR = 7 };

typedef struct {
  int32_t type_index;
  uint32_t zero_padding;
  union {
    int64_t v_int64;
    double v_float64;
    void *v_ptr;
  };
} TVMFFIAny;

typedef int32_t (*qs_kernel)(void *self, const TVMFFIAny *args, int32_t num_args, TVMFFIAny *result);

typedef struct {
  void *sync_handle;
  int32_t num_task;
} TVMParallelGroupEnv;

typedef int (*qs_task)(int task_id, TVMParallelGroupEnv *env, void *data);

#endif
