"""A network whose only kernel is written in C: it tests the runtime around the kernels, without TVM.

It blurs with a box of 5×5 pixels (zero outside of the image), repeats every pixel 2×2 times and adds a parameter.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch.compile.binaries import build_binaries
from qsearch.compile.glue import RUNTIME, Interface
from qsearch.compile.link import compile_c
from qsearch.compile.plan import INPUT, OUTPUT, Buffer, Plan, Step
from qsearch.compile.specs import ConvSpec, OutSpec
from qsearch.target import load_target

TRIPLE = load_target("host").zig_triple
SPEC = ConvSpec((5, 5), 1, (2, 2), 3, 0, 12, (OutSpec(3, 0),), shuffle=2)
HALO = 2

_KERNEL = """
#include "qs_abi.h"
extern void *__TVMBackendParallelLaunch;
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t n);

static int rows(int task, TVMParallelGroupEnv *env, void *data) {
  DLTensor **t = data;
  const uint8_t *in = t[0]->data, *offset = t[2]->data;
  uint8_t *out = t[1]->data;
  int64_t h = t[0]->shape[0], w = t[0]->shape[1];
  for (int64_t y = h * task / env->num_task; y < h * (task + 1) / env->num_task; y++)
    for (int64_t x = 0; x < w * 3; x++) {
      int sum = 0;
      for (int dy = -2; dy <= 2; dy++)
        for (int dx = -2; dx <= 2; dx++)
          if (y + dy >= 0 && y + dy < h && x + dx * 3 >= 0 && x + dx * 3 < w * 3)
            sum += in[(y + dy) * w * 3 + x + dx * 3];
      for (int sub = 0; sub < 4; sub++)
        out[((2 * y + sub / 2) * 2 * w + x / 3 * 2 + sub % 2) * 3 + x % 3] = (uint8_t)(sum / 25 + offset[0]);
    }
  return 0;
}

int32_t __tvm_ffi_SYMBOL(void *self, const TVMFFIAny *args, int32_t n, TVMFFIAny *result) {
  (void)self, (void)result;
  DLTensor *t[3] = {args[0].v_ptr, args[1].v_ptr, args[2].v_ptr};
  if (n != 3 || t[1]->shape[0] != 2 * t[0]->shape[0]) {
    const char *parts[2] = {"wrong ", "shape"};
    TVMFFIErrorSetRaisedFromCStrParts("ValueError", parts, 2);
    return -1;
  }
  return ((int (*)(qs_task, void *, int))__TVMBackendParallelLaunch)(rows, t, 0);
}
"""


def build_box_network(folder: Path, name: str = "box", offset: int = 3, memory_bytes: int = 64 << 20) -> Path:
    """Binaries of the network in `folder`; returns the executable."""
    buffers = {INPUT: Buffer(INPUT, 3, 0, 1, 1, None), OUTPUT: Buffer(OUTPUT, 3, 0, 2, 1, None)}
    step = Step("blur", SPEC, INPUT, (), (OUTPUT,), ("offset",))
    plan = Plan("generic", buffers, (step,), {"offset": np.array([offset], np.uint8)}, HALO, 2)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.c").write_text(_KERNEL.replace("SYMBOL", SPEC.symbol))
    kernel = (folder / compile_c("kernel.c", TRIPLE, folder, Path(str(RUNTIME)))).read_bytes()
    build_binaries(plan, Interface(name, 1, 1, memory_bytes), {SPEC.symbol: kernel}, TRIPLE, folder)
    return folder / name


def box_reference(image: NDArray[np.uint8], offset: int = 3) -> NDArray[np.uint8]:
    """What the network computes."""
    height, width, _ = image.shape
    padded = np.pad(image.astype(np.int64), ((2, 2), (2, 2), (0, 0)))
    total = sum(padded[y : y + height, x : x + width] for y in range(5) for x in range(5))
    return np.repeat(np.repeat((total // 25 + offset).astype(np.uint8), 2, 0), 2, 1)
