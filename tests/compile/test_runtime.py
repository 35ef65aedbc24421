"""The executable and the library around the kernels: tiles, threads, files, errors."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qsearch.compile import link
from qsearch.compile.glue import Interface
from qsearch.compile.ppm import decode_ppm, encode_ppm
from qsearch.errors import QsearchError
from tests.compile.box_network import HALO, TRIPLE, box_reference, build_box_network


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_box_network(tmp_path_factory.mktemp("box"))


def image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3)).astype(np.uint8)


def run(box: Path, *options: object, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([box, *map(str, options)], input=stdin, capture_output=True, timeout=60)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (37, 53), (64, 9)])
@pytest.mark.parametrize(
    "options", [(), ("--tile", 5), ("--tile", 6), ("--tile", 20), ("--tile", 52), ("--threads", 1), ("--threads", 5)]
)
def test_every_tiling_gives_the_bytes_of_the_whole_image(
    box: Path, size: tuple[int, int], options: tuple[object, ...]
) -> None:
    picture = image(*size)
    done = run(box, "-", "-", *options, stdin=encode_ppm(picture))
    assert done.returncode == 0, done.stderr
    assert np.array_equal(decode_ppm(done.stdout), box_reference(picture))


def test_memory_limit_bounds_the_working_memory(box: Path) -> None:
    done = run(box, "--bench", 1, "--size", "1500x1500", "--memory", 1)
    images = 1500 * 1500 * 3 * 5
    assert json.loads(done.stdout)["peak_rss_bytes"] < images + (3 << 20)
    picture = image(300, 700)
    done = run(box, "-", "-", "--memory", 1, stdin=encode_ppm(picture))
    assert np.array_equal(decode_ppm(done.stdout), box_reference(picture))


def test_bench_prints_one_json_line(box: Path) -> None:
    done = run(box, "--bench", 3, "--size", "50x40", "--threads", 2)
    found = json.loads(done.stdout)
    assert (found["width"], found["height"], found["threads"], found["rounds"]) == (50, 40, 2, 3)
    assert found["min_ms"] <= found["p10_ms"] <= found["latency_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert found["peak_rss_bytes"] > 50 * 40 * 15


def test_raw_files_and_ppm_with_comments(box: Path, tmp_path: Path) -> None:
    picture = image(6, 9)
    (tmp_path / "in.rgb").write_bytes(picture.tobytes())
    assert run(box, tmp_path / "in.rgb", tmp_path / "out.rgb", "--raw", "9x6").returncode == 0
    assert (tmp_path / "out.rgb").read_bytes() == box_reference(picture).tobytes()
    assert run(box, "-", "-", "--raw", "9x6", stdin=picture.tobytes()).stdout == box_reference(picture).tobytes()
    commented = b"P6 # made by hand\n# two lines\n9\t6\n#last\n255\n" + picture.tobytes()
    assert decode_ppm(run(box, "-", "-", stdin=commented).stdout).tobytes() == box_reference(picture).tobytes()


@pytest.mark.parametrize(
    ("data", "options", "line"),
    [
        (b"", (), "not a binary PPM"),
        (b"P5\n2 2\n255\n1234", (), "not a binary PPM"),
        (b"\x89PNG\r\n\x1a\n", (), "not a binary PPM"),
        (b"P6\n2 2\n255\n12345678901", (), "truncated"),
        (b"P6\n2 ", (), "damaged PPM header"),
        (b"P6\n0 2\n255\n", (), "damaged PPM header"),
        (b"P6\n-3 2\n255\n", (), "damaged PPM header"),
        (b"P6\n99999999999999999999 2\n255\n", (), "damaged PPM header"),
        (b"P6\n9999999 9999999\n255\n", (), "too large"),
        (b"P6\n1 1\n65535\n123456", (), "8 bits"),
        (b"12", ("--raw", "1x1"), "truncated"),
        (b"1234", ("--raw", "1x1"), "more bytes"),
        (b"", ("--size", "1"), "--size"),
        (b"", ("--size", "0x4"), "--size"),
        (b"", ("--size", "4x4"), "a raw image has --raw"),
        (b"", ("--raw", "4x"), "--raw"),
        (b"", ("--threads", "-1"), "--threads"),
        (b"", ("--threads", "two"), "--threads"),
        (b"", ("--thread", "2"), "unknown option"),
        (b"", ("third.ppm",), "one input and one output"),
        (encode_ppm(image(30, 30)), ("--tile", 2 * HALO), "too small"),
    ],
)
def test_bad_input_gives_one_line_and_writes_nothing(
    box: Path, tmp_path: Path, data: bytes, options: tuple[object, ...], line: str
) -> None:
    source, out = tmp_path / "in.ppm", tmp_path / "out.ppm"
    source.write_bytes(data)
    out.write_bytes(b"precious")
    done = run(box, source, out, *options)
    assert done.returncode == 2
    assert done.stdout == b""
    assert line in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert out.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.ppm", "out.ppm"]


def test_files_that_cannot_be_read_or_written(box: Path, tmp_path: Path) -> None:
    done = run(box, tmp_path / "absent.ppm", "-")
    assert done.returncode == 2
    assert b"absent.ppm: No such file" in done.stderr
    done = run(box, "-", tmp_path / "no" / "out.ppm", stdin=encode_ppm(image(2, 2)))
    assert done.returncode == 2
    assert b"No such file" in done.stderr
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as full:
            done = subprocess.run([box, "-", "-"], input=encode_ppm(image(9, 9)), stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 2
        assert b"No space left" in done.stderr


_TWO_NETWORKS = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include "one.h"
#include "two.h"
enum { H = 40, W = 30 };
static uint8_t in[H * W * 3], out[4][H * W * 12];
static void *first(void *arg) {
  one_context *c = one_create(2);
  for (int i = 0; i < 50; i++) if (one_upscale_image(c, in, H, W, arg, 9)) exit(3);
  one_destroy(c);
  return NULL;
}
static void *second(void *arg) {
  two_context *c = two_create(2);
  void *workspace = aligned_alloc(64, (two_workspace_bytes(H, W) + 63) / 64 * 64);
  for (int i = 0; i < 50; i++) if (two_run(c, in, H, W, arg, workspace)) exit(4);
  if (two_run(c, in, 0, W, arg, workspace) != two_BAD_SIZE) exit(5);
  fprintf(stderr, "%s", two_error(c));
  two_set_threads(c, 1);
  if (two_threads(c) != 1 || two_upscale_image(c, in, H, W, arg, 0)) exit(6);
  two_destroy(c);
  free(workspace);
  return NULL;
}
int main(void) {
  pthread_t t[4];
  fread(in, 1, sizeof in, stdin);
  for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, i % 2 ? second : first, out[i]);
  for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
  fwrite(out, 1, sizeof out, stdout);
  return 0;
}
"""


def test_two_networks_and_several_contexts_in_one_program(tmp_path: Path) -> None:
    for name, offset in (("one", 1), ("two", 2)):
        build_box_network(tmp_path, name, offset)
    (tmp_path / "program.c").write_text(_TWO_NETWORKS)
    program = link.compile_c("program.c", TRIPLE, tmp_path, tmp_path)
    # With everything of both libraries, not only what is missing: equal symbols would clash.
    objects = [program, "-Wl,--whole-archive", "libone.a", "libtwo.a", "-Wl,--no-whole-archive"]
    link.link_executable(objects, "program", TRIPLE, tmp_path)
    picture = image(40, 30)
    done = subprocess.run([tmp_path / "program"], input=picture.tobytes(), capture_output=True, timeout=60)
    assert done.returncode == 0
    expected = [box_reference(picture, offset).tobytes() for offset in (1, 2, 1, 2)]
    assert done.stdout == b"".join(expected)
    assert b"30x0: this network needs at least 1x1" in done.stderr


def test_name_must_be_a_c_prefix() -> None:
    for name in ("9net", "a-b", "", "Net", "a b"):
        with pytest.raises(QsearchError, match="C prefix"):
            Interface(name, 1, 1, 1 << 20)
    for name in ("qs", "qs_net", "golden"):
        with pytest.raises(QsearchError, match="reserved"):
            Interface(name, 1, 1, 1 << 20)


@pytest.mark.parametrize("name", ["network", "executable", "ppm", "main"])
def test_names_that_files_of_the_runtime_bear(tmp_path: Path, name: str) -> None:
    picture = image(5, 4)
    done = run(build_box_network(tmp_path, name), "-", "-", stdin=encode_ppm(picture))
    assert np.array_equal(decode_ppm(done.stdout), box_reference(picture))
