"""Two networks for patches in one program of somebody else, on two different images."""

import shutil
import subprocess
from pathlib import Path

import numpy as np

from qsearch.compile import link
from qsearch.target import load_target
from tests.patches.networks import textures
from tests.patches.stored_patches import clusters, clusters_artefact, edges, edges_artefact
from tests.small_networks import random_images

_PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include "clusters.h"
#include "edges.h"
enum { H = 40, W = 45, BYTES = H * W * 3 };
static uint8_t in[2][BYTES], out[4][4 * BYTES];
int main(void) {
  if (fread(in, 1, sizeof in, stdin) != sizeof in || edges_unsupported() || clusters_unsupported()) return 2;
  edges_context *a = edges_create(2), *b = edges_create(1);
  clusters_context *c = clusters_create(1);
  if (edges_upscale_image(a, in[0], H, W, out[0], 0) || edges_upscale_image(b, in[1], H, W, out[1], 0)) return 3;
  if (clusters_upscale_image(c, in[0], H, W, out[2], 0) || clusters_upscale_image(c, in[1], H, W, out[3], 0)) return 4;
  edges_patch *patches = malloc((size_t)edges_num_patches(H, W) * sizeof *patches);
  if (edges_decide(a, in[1], H, W, patches)) return 5;
  for (int64_t i = 0; i < edges_num_patches(H, W); i++) fputs(edges_level_name(patches[i].level), stderr);
  if (edges_decide(a, in[1], 0, W, patches) != edges_BAD_SIZE || edges_level_name(3)) return 6;
  free(patches);
  edges_destroy(a);
  edges_destroy(b);
  clusters_destroy(c);
  return fwrite(out, 1, sizeof out, stdout) != sizeof out;
}
"""


def test_two_networks_and_two_images(tmp_path: Path) -> None:
    for folder, name in ((edges_artefact(), "edges"), (clusters_artefact(), "clusters")):
        for file in (f"{name}.h", f"lib{name}.a"):
            shutil.copy(folder / file, tmp_path)
    (tmp_path / "program.c").write_text(_PROGRAM)
    triple = load_target("host").zig_triple
    main = link.compile_c("program.c", triple, tmp_path)
    # With everything of both libraries, not only what is missing: equal symbols would clash.
    objects = [main, "-Wl,--whole-archive", "libedges.a", "libclusters.a", "-Wl,--no-whole-archive"]
    link.link_executable(objects, "program", triple, tmp_path)
    images = [textures(40, 45), random_images(1, 40, 45, seed=8)[0]]
    data = b"".join(image.tobytes() for image in images)
    done = subprocess.run([tmp_path / "program"], input=data, capture_output=True, timeout=60)
    assert done.returncode == 0
    results = [patches.executor().run(image) for patches in (edges(), clusters()) for image in images]
    assert done.stdout == b"".join(np.ascontiguousarray(result.image).tobytes() for result in results)
    assert done.stderr.decode() == "".join(patch.bits for patch in results[1].patches)
