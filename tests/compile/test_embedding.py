"""Two compiled networks in one program of somebody else, through their headers and static libraries."""

import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from qsearch.compile import link
from qsearch.compile.artefact import build_artefact
from qsearch.compile.manifest import read_manifest
from qsearch.target import Abi, load_target
from tests.artefacts import noise, small_artefact, small_program
from tests.random_programs import Layer, build_program, reference

_PROGRAM = """
#include <stdio.h>
#include "other.h"
#include "small.h"
enum { H = 21, W = 34 };
static uint8_t in[H * W * 3], first[H * W * 3 * small_UPSCALE * small_UPSCALE];
static uint8_t second[H * W * 3 * other_UPSCALE * other_UPSCALE];
int main(void) {
  if (fread(in, 1, sizeof in, stdin) != sizeof in || small_unsupported() || other_unsupported()) return 2;
  small_context *a = small_create(2);
  other_context *b = other_create(1), *c = other_create(3);
  if (small_upscale_image(a, in, H, W, first, 15) || other_upscale_image(b, in, H, W, second, 0)) return 3;
  fwrite(first, 1, sizeof first, stdout);
  fwrite(second, 1, sizeof second, stdout);
  other_destroy(b);
  if (small_upscale_image(a, in, H, W, first, 0) || other_upscale_image(c, in, H, W, second, 9)) return 4;
  small_set_memory_limit(a, SMALLEST_TILE_BYTES - 1);
  if (small_upscale_image(a, in, H, W, first, 0) != small_NO_MEMORY) return 6;
  small_set_memory_limit(a, SMALLEST_TILE_BYTES);
  if (small_upscale_image(a, in, H, W, first, 0)) return 7;
  if (other_upscale_image(c, in, 0, W, second, 0) != other_BAD_SIZE) return 5;
  fprintf(stderr, "%s", other_error(c));
  other_destroy(c);
  small_destroy(a);
  fwrite(first, 1, sizeof first, stdout);
  fwrite(second, 1, sizeof second, stdout);
  return 0;
}
"""


@pytest.mark.parametrize("abi", ["musl", "glibc"])
def test_two_networks_in_one_program(abi: Abi, tmp_path: Path) -> None:
    """Of whichever C library: the network's own is only that of its executable."""
    if abi == "glibc" and platform.libc_ver()[0] != "glibc":
        pytest.skip("this machine has not glibc, which the program would load")
    layers = [Layer(12, kernel=(5, 5), prelu=True), Layer(12, weight_bits=3), Layer(3, shuffle=2)]
    program = build_program(layers, seed=9)
    for name, value in list(program.named_buffers()):
        setattr(program, name, value.clone())
    target = load_target("host")
    triple = target.model_copy(update={"abi": abi}).zig_triple
    other = build_artefact(program, tmp_path / "artefact", target, name="other")
    for folder, name in ((small_artefact(), "small"), (other, "other")):
        for file in (f"{name}.h", f"lib{name}.a"):
            shutil.copy(folder / file, tmp_path)
    (tmp_path / "program.c").write_text(_PROGRAM)
    least = read_manifest(small_artefact())["smallest_tile_bytes"]
    main = link.compile_c("program.c", triple, tmp_path, options=(f"-DSMALLEST_TILE_BYTES={least}",))
    # With everything of both libraries, not only what is missing: equal symbols would clash.
    objects = [main, "-Wl,--whole-archive", "libsmall.a", "libother.a", "-Wl,--no-whole-archive"]
    link.link_executable(objects, "program", triple, tmp_path)
    picture = noise(21, 34)
    done = subprocess.run([tmp_path / "program"], input=picture.tobytes(), capture_output=True, timeout=60)
    assert done.returncode == 0
    expected = b"".join(np.ascontiguousarray(reference(p, picture)).tobytes() for p in (small_program(), program))
    assert done.stdout == expected * 2
    assert b"34x0: this network needs at least" in done.stderr
