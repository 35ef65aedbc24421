/* The OpenCL device of this process, with the network's program compiled for it; opened once, at the first use. */

typedef struct {
  char reason[256]; /* why there is none, or empty */
  qs_cl device, context, program;
} qs_device;

static qs_device qs_gpu;
static pthread_once_t qs_gpu_once = PTHREAD_ONCE_INIT;

/* The first GPU, or else the first device of any kind. */
static qs_cl qs_find_device(void) {
  qs_cl platforms[16], device = NULL;
  uint32_t count = 0;
  if (clGetPlatformIDs(16, platforms, &count) != 0) return NULL;
  if (count > 16) count = 16;
  const uint64_t kinds[2] = {CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ALL};
  for (int kind = 0; kind < 2; kind++)
    for (uint32_t i = 0; i < count; i++)
      if (clGetDeviceIDs(platforms[i], kinds[kind], 1, &device, NULL) == 0 && device) return device;
  return NULL;
}

/* The first line of the driver's messages that names an error. */
static void qs_build_error(qs_device *gpu, const char *name, int32_t error) {
  static char log[16384];
  if (gpu->program == NULL || /* it could not even be created */
      clGetProgramBuildInfo(gpu->program, gpu->device, CL_PROGRAM_BUILD_LOG, sizeof log - 1, log, NULL) != 0)
    log[0] = 0;
  char *line = strstr(log, "error");
  while (line && line > log && line[-1] != '\n') line--;
  if (line) line[strcspn(line, "\n")] = 0;
  qs_format(gpu->reason, sizeof gpu->reason, "OpenCL device '%s' cannot compile the kernels (%d) %s", name, error,
            line ? line : "");
}

/* Compiles the program; returns 0, with a reason, where it cannot. */
static int qs_build(qs_device *gpu, const char *name, const char *options) {
  int32_t error = 0;
  gpu->program = clCreateProgramWithSource(gpu->context, QS_NUM_SOURCES, qs_sources, NULL, &error);
  if (error == 0) error = clBuildProgram(gpu->program, 1, &gpu->device, options, NULL, NULL);
  if (error) qs_build_error(gpu, name, error);
  return error == 0;
}

/* Whether the driver's dot product has the signs and the order of bytes that its extension promises. */
static int qs_dot_is_right(const qs_device *gpu) {
  const uint32_t activation = 0xFF00807F, weight = 0x807FFF01; /* 127, 128, 0, 255 and 1, -1, 127, -128 */
  const int32_t sum_of_weights = -1, expected = 127 - 128 - 255 * 128;
  const size_t one = 1;
  int32_t sum = 0, error[3] = {0};
  qs_cl memory = clCreateBuffer(gpu->context, CL_MEM_READ_WRITE, sizeof sum, NULL, &error[0]);
  qs_cl queue = clCreateCommandQueue(gpu->context, gpu->device, 0, &error[1]);
  qs_cl kernel = clCreateKernel(gpu->program, "check_dot4", &error[2]);
  if (!error[0] && !error[1] && !error[2]) {
    clSetKernelArg(kernel, 0, sizeof memory, &memory);
    clSetKernelArg(kernel, 1, sizeof activation, &activation);
    clSetKernelArg(kernel, 2, sizeof weight, &weight);
    clSetKernelArg(kernel, 3, sizeof sum_of_weights, &sum_of_weights);
    clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &one, NULL, 0, NULL, NULL);
    clEnqueueReadBuffer(queue, memory, 1, 0, sizeof sum, &sum, 0, NULL, NULL);
  }
  if (kernel) clReleaseKernel(kernel);
  if (queue) clReleaseCommandQueue(queue);
  if (memory) clReleaseMemObject(memory);
  return sum == expected;
}

static void qs_open_gpu(void) {
  qs_device *gpu = &qs_gpu;
  const char *reason = qs_load_opencl();
  if (reason == NULL && (gpu->device = qs_find_device()) == NULL) reason = "no OpenCL device on this machine";
  if (reason) {
    qs_format(gpu->reason, sizeof gpu->reason, "%s", reason);
    return;
  }
  char name[64] = "";
  uint64_t rounding = 0;
  int32_t error = 0;
  clGetDeviceInfo(gpu->device, CL_DEVICE_NAME, sizeof name - 1, name, NULL);
  clGetDeviceInfo(gpu->device, CL_DEVICE_SINGLE_FP_CONFIG, sizeof rounding, &rounding, NULL);
  if (!(rounding & CL_FP_ROUND_TO_NEAREST)) {
    qs_format(gpu->reason, sizeof gpu->reason, "OpenCL device '%s' does not round float32 to nearest", name);
    return;
  }
  gpu->context = clCreateContext(NULL, 1, &gpu->device, NULL, NULL, &error);
  if (error) {
    qs_format(gpu->reason, sizeof gpu->reason, "OpenCL device '%s' cannot be opened (%d)", name, error);
    return;
  }
  if (qs_build(gpu, name, "") && !qs_dot_is_right(gpu)) {
    clReleaseProgram(gpu->program);
    if (qs_build(gpu, name, "-DPLAIN_DOT") && !qs_dot_is_right(gpu))
      qs_format(gpu->reason, sizeof gpu->reason, "OpenCL device '%s' computes wrong sums", name);
  }
}

/* One line that says why no OpenCL device can run the network, or NULL. */
static const char *qs_unsupported(void) {
  pthread_once(&qs_gpu_once, qs_open_gpu);
  return qs_gpu.reason[0] ? qs_gpu.reason : NULL;
}
