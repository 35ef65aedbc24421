/* The functions of libOpenCL, which is opened at run time: neither building nor linking needs it.
 * Constants and signatures: cl.h and cl_platform.h of the Khronos OpenCL headers, OpenCL 1.2. */
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct qs_cl_object *qs_cl; /* any handle */

enum {
  CL_DEVICE_TYPE_GPU = 1 << 2,
  CL_DEVICE_SINGLE_FP_CONFIG = 0x101B,
  CL_DEVICE_NAME = 0x102B,
  CL_FP_ROUND_TO_NEAREST = 1 << 2,
  CL_QUEUE_PROFILING_ENABLE = 1 << 1,
  CL_MEM_READ_WRITE = 1 << 0,
  CL_MEM_READ_ONLY_COPY = 1 << 2 | 1 << 5, /* CL_MEM_READ_ONLY | CL_MEM_COPY_HOST_PTR */
  CL_PROGRAM_BUILD_LOG = 0x1183,
  CL_KERNEL_WORK_GROUP_SIZE = 0x11B0,
  CL_PROFILING_COMMAND_START = 0x1282,
  CL_PROFILING_COMMAND_END = 0x1283,
  CL_MEM_OBJECT_ALLOCATION_FAILURE = -4,
  CL_OUT_OF_RESOURCES = -5,
  CL_OUT_OF_HOST_MEMORY = -6,
  CL_INVALID_BUFFER_SIZE = -61,
};
#define CL_DEVICE_TYPE_ALL 0xFFFFFFFFu

#define QS_CL_FUNCTIONS(DO)                                                                                           \
  DO(int32_t, clGetPlatformIDs, (uint32_t, qs_cl *, uint32_t *))                                                      \
  DO(int32_t, clGetDeviceIDs, (qs_cl, uint64_t, uint32_t, qs_cl *, uint32_t *))                                       \
  DO(int32_t, clGetDeviceInfo, (qs_cl, uint32_t, size_t, void *, size_t *))                                           \
  DO(qs_cl, clCreateContext, (const intptr_t *, uint32_t, const qs_cl *, void *, void *, int32_t *))                  \
  DO(qs_cl, clCreateCommandQueue, (qs_cl, qs_cl, uint64_t, int32_t *))                                                \
  DO(int32_t, clReleaseCommandQueue, (qs_cl))                                                                         \
  DO(qs_cl, clCreateProgramWithSource, (qs_cl, uint32_t, const char *const *, const size_t *, int32_t *))             \
  DO(int32_t, clBuildProgram, (qs_cl, uint32_t, const qs_cl *, const char *, void *, void *))                         \
  DO(int32_t, clReleaseProgram, (qs_cl))                                                                              \
  DO(int32_t, clGetProgramBuildInfo, (qs_cl, qs_cl, uint32_t, size_t, void *, size_t *))                              \
  DO(qs_cl, clCreateKernel, (qs_cl, const char *, int32_t *))                                                         \
  DO(int32_t, clReleaseKernel, (qs_cl))                                                                               \
  DO(int32_t, clGetKernelWorkGroupInfo, (qs_cl, qs_cl, uint32_t, size_t, void *, size_t *))                           \
  DO(int32_t, clSetKernelArg, (qs_cl, uint32_t, size_t, const void *))                                                \
  DO(qs_cl, clCreateBuffer, (qs_cl, uint64_t, size_t, void *, int32_t *))                                             \
  DO(int32_t, clReleaseMemObject, (qs_cl))                                                                            \
  DO(int32_t, clEnqueueWriteBuffer,                                                                                   \
     (qs_cl, qs_cl, uint32_t, size_t, size_t, const void *, uint32_t, const qs_cl *, qs_cl *))                        \
  DO(int32_t, clEnqueueReadBuffer, (qs_cl, qs_cl, uint32_t, size_t, size_t, void *, uint32_t, const qs_cl *, qs_cl *)) \
  DO(int32_t, clEnqueueNDRangeKernel,                                                                                 \
     (qs_cl, qs_cl, uint32_t, const size_t *, const size_t *, const size_t *, uint32_t, const qs_cl *, qs_cl *))      \
  DO(int32_t, clFinish, (qs_cl))                                                                                      \
  DO(int32_t, clGetEventProfilingInfo, (qs_cl, uint32_t, size_t, void *, size_t *))                                   \
  DO(int32_t, clReleaseEvent, (qs_cl))

#define QS_CL_POINTER(result, name, parameters) static result(*name) parameters;
QS_CL_FUNCTIONS(QS_CL_POINTER)

/* Loads every function; returns one line that says why it cannot, or NULL. */
static const char *qs_load_opencl(void) {
  static const char *const names[] = {
      "libOpenCL.so.1", "libOpenCL.so", "/vendor/lib64/libOpenCL.so", "/system/vendor/lib64/libOpenCL.so",
      "/vendor/lib64/egl/libGLES_mali.so", /* Mali drivers of some phones carry OpenCL in here only */
      "libmali.so",
  };
  void *library = NULL;
  for (size_t i = 0; library == NULL && i < sizeof names / sizeof names[0]; i++)
    library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return "no OpenCL on this machine: libOpenCL.so.1 cannot be loaded";
#define QS_CL_LOAD(result, name, parameters)                                       \
  {                                                                                \
    void *symbol = dlsym(library, #name);                                          \
    if (symbol == NULL) return "the OpenCL library of this machine lacks " #name;  \
    memcpy(&name, &symbol, sizeof symbol);                                         \
  }
  QS_CL_FUNCTIONS(QS_CL_LOAD)
  return NULL;
}
