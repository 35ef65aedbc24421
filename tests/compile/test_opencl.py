"""OpenCL artefacts give the bytes of the integer operations on whatever OpenCL device is here, usually PoCL."""

import ctypes
import json
import os
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.fx import GraphModule

from qsearch.compile.artefact import build_artefact
from qsearch.compile.binaries import build_binaries
from qsearch.compile.emulation import emulator
from qsearch.compile.glue import Interface
from qsearch.compile.opencl import GPUS, embed
from qsearch.compile.plan import build
from qsearch.compile.ppm import decode_ppm, encode_ppm
from qsearch.compile.run_artefact import run_executable, verify
from qsearch.errors import QsearchError
from qsearch.target import Target, load_target
from tests.artefacts import noise, small_program
from tests.compile import pocl_arm64
from tests.random_programs import Layer, build_program, layers, reference


@cache
def missing() -> str:
    """Why there is no OpenCL device here, or nothing."""
    try:
        library = ctypes.CDLL("libOpenCL.so.1")
    except OSError:
        return "libOpenCL.so.1 cannot be loaded"
    platforms, count = (ctypes.c_void_p * 16)(), ctypes.c_uint32()
    library.clGetPlatformIDs(16, platforms, ctypes.byref(count))
    found = ctypes.c_uint32()
    for platform in platforms[: count.value]:
        if library.clGetDeviceIDs(ctypes.c_void_p(platform), ctypes.c_uint64(0xFFFFFFFF), 0, None, ctypes.byref(found)):
            continue
        if found.value:
            return ""
    return "no OpenCL device"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is one")

NETWORKS = {
    "skips": (
        "mali",
        [Layer(16), Layer(20, quantizers=2, prelu=True), Layer(20, skips=2), Layer(3, skips=1, shuffle=3)],
    ),
    "groups": ("adreno", [Layer(32, kernel=(5, 1)), Layer(16, groups=2, shuffle=2), Layer(12, groups=3), Layer(3)]),
    "strided": ("generic", [Layer(16, stride=2, piecewise=True), Layer(28, joins=1), Layer(3, shuffle=4)]),
}


def upscale(program: GraphModule, gpu: str, image: NDArray[np.uint8], folder: Path) -> NDArray[np.uint8]:
    """The output of `program` on the OpenCL device for `image`."""
    plan = build(program, "opencl")
    engine = embed.EmbeddedProgram(GPUS[gpu])
    triple = host().zig_triple
    build_binaries(plan, Interface("net", *plan.minimum_size(), 1 << 29), {}, triple, folder, engine=engine)
    done = subprocess.run([folder / "net", "-", "-"], input=encode_ppm(image), capture_output=True)
    assert done.returncode == 0, done.stderr
    return decode_ppm(done.stdout)


def host() -> Target:
    return load_target("opencl")


@pytest.mark.parametrize("name", NETWORKS)
def test_known_networks(name: str, tmp_path: Path) -> None:
    gpu, chain = NETWORKS[name]
    program, image = build_program(chain, seed=1), noise(6, 22)
    np.testing.assert_array_equal(upscale(program, gpu, image, tmp_path), reference(program, image))


def test_random_networks(tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        chain=layers(resizing=False), seed=st.integers(0, 999), columns=st.integers(1, 40), gpu=st.sampled_from([*GPUS])
    )
    def check(chain: list[Layer], seed: int, columns: int, gpu: str) -> None:
        program, image = build_program(chain, seed), noise(5, columns)
        found = upscale(program, gpu, image, tmp_path_factory.mktemp("random"))
        np.testing.assert_array_equal(found, reference(program, image))

    check()


_DOTS = {
    "cl_arm_integer_dot_product_accumulate_int8": "static int arm_dot_acc(char4 a, char4 b, int c) { return c + %s; }",
    "cl_arm_integer_dot_product_int8": "static int arm_dot(char4 a, char4 b) { return %s; }",
    "cl_qcom_dot_product8": "static int qcom_dot8_acc(uint p, uint q, int c) "
    "{ const char4 a = as_char4(p); const uchar4 b = as_uchar4(q); return c + %s; }",
    "cl_khr_integer_dot_product": "static int dot_4x8packed_ss_int(uint p, uint q) "
    "{ const char4 a = as_char4(p), b = as_char4(q); return %s; }",
}


def test_a_driver_whose_dot_product_is_wrong_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = "#define cl_qcom_dot_product8 1\nstatic int qcom_dot8_acc(uint p, uint q, int c) { return c + 1; }\n"
    original = embed.program
    monkeypatch.setattr(embed, "program", lambda kernels, gpu: [wrong, *original(kernels, gpu)])
    program, image = build_program([Layer(8), Layer(3, shuffle=2)], seed=3), noise(4, 9)
    np.testing.assert_array_equal(upscale(program, "adreno", image, tmp_path), reference(program, image))


@pytest.mark.parametrize("extension", _DOTS)
def test_every_dot_product_instruction(extension: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device need not have the extension: its function is written out, with the signs that it is specified with."""
    sums = "a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w"
    given_by_device = f"#define {extension} 1\n{_DOTS[extension] % sums}\n"
    original = embed.program
    monkeypatch.setattr(embed, "program", lambda kernels, gpu: [given_by_device, *original(kernels, gpu)])
    program, image = build_program([Layer(8), Layer(3, shuffle=2)], seed=3), noise(4, 9)
    np.testing.assert_array_equal(upscale(program, "mali", image, tmp_path), reference(program, image))


def test_artefact(tmp_path: Path) -> None:
    """The whole artefact, in tiles, with the time of every step, and without a device."""
    folder = build_artefact(small_program(), tmp_path / "artefact", host(), name="small")
    assert verify(folder).ok
    image = noise(20, 31)
    assert np.array_equal(run_executable(folder, image, tile=18), reference(small_program(), image))
    done = subprocess.run([folder / "small", "--profile", "2", "--size", "20x30"], capture_output=True)
    steps = json.loads(done.stdout)["steps"]
    assert [step["name"] for step in steps] == [step.name for step in build(small_program(), "opencl").steps]
    assert all(step["latency_ms"] > 0 for step in steps)
    nothing = {**os.environ, "OCL_ICD_VENDORS": str(tmp_path / "nothing")}
    done = subprocess.run([folder / "small", "--bench", "1"], capture_output=True, env=nothing)
    assert done.returncode == 3
    assert done.stderr.decode().splitlines() == [f"{folder / 'small'}: no OpenCL device on this machine"]


def test_phones_get_an_executable_for_their_own_libraries(tmp_path: Path) -> None:
    """Without Android's toolchain; where PoCL for arm64 was unpacked, it runs, too."""
    target = load_target("mali-g57")
    folder = build_artefact(small_program(), tmp_path / "phone", target, name="small")
    data = (folder / "small").read_bytes()
    for needed in (b"/system/bin/linker64", b"libc.so", b"libdl.so"):
        assert needed + b"\0" in data
    with pytest.raises(QsearchError, match="must be for aarch64"):
        build_artefact(
            small_program(), tmp_path / "old", target.model_copy(update={"arch": "armv7", "features": ()}), name="small"
        )


@pytest.mark.parametrize("abi", ["android", "glibc"])
def test_arm64_under_emulation(abi: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if emulator("aarch64") is None or not pocl_arm64.folder().is_dir():
        pytest.skip("needs qemu-aarch64, and PoCL for arm64 from `python -m tests.compile.pocl_arm64`")
    for name, value in pocl_arm64.environment().items():
        monkeypatch.setenv(name, value)
    target = load_target("mali-g57").model_copy(update={"abi": abi})
    program = build_program([Layer(16, skips=1, prelu=True), Layer(3, shuffle=2)], seed=1)
    for buffer, values in list(program.named_buffers()):
        setattr(program, buffer, values.clone())  # numpy arrays may be shared
    folder = build_artefact(program, tmp_path / "artefact", target, name="net")
    checked = verify(folder)
    assert checked.ok
    assert checked.runner == "qemu-aarch64"


def test_a_gpu_needs_a_dynamic_executable(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "targets" / "opencl.toml").read_text()
    (tmp_path / "gpu.toml").write_text(text.replace('abi = "glibc"', 'abi = "musl"'))
    with pytest.raises(QsearchError, match="a gpu needs abi 'glibc' or 'android'"):
        load_target(tmp_path / "gpu.toml")
