"""Weights are stored at their real bits and unpacked to the same bytes."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.compile import glue, kernels, link, weights
from qsearch.compile.artefact import build_artefact
from qsearch.compile.manifest import read_manifest
from qsearch.compile.packing import Convolution
from qsearch.compile.run_artefact import run_executable
from qsearch.compile.specs import ConvSpec
from qsearch.target import load_target
from tests.artefacts import noise
from tests.random_programs import Layer, build_program, reference

_UNPACK = """
#define QS_NUM_PARAMS 1
#define QS_MAX_ARGS 1
#include "qs_network.h"
static const qs_param qs_params[QS_NUM_PARAMS];
static const uint8_t qs_param_data[1];
#include "params.c"
void unpack(const uint8_t *from, int bits, int64_t count, int8_t *to) { qs_unpack(from, bits, count, to); }
uint64_t total(void) { uint8_t *m = 0; return qs_unpacked_bytes() + (uint64_t)(uintptr_t)qs_param_address(0, &m); }
"""


@pytest.fixture(scope="module")
def unpack(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The runtime's own C function in a shared library."""
    folder = tmp_path_factory.mktemp("unpack")
    (folder / "unpack.c").write_text(_UNPACK)
    triple = load_target("host").zig_triple
    link.link_module([link.compile_c("unpack.c", triple, folder, Path(str(glue.RUNTIME)))], "unpack.so", triple, folder)
    return ctypes.CDLL(str(folder / "unpack.so"))


@given(bits=st.integers(1, 7), count=st.integers(0, 200), seed=st.integers(0, 2**32 - 1))
def test_packing_is_undone_exactly(unpack: ctypes.CDLL, bits: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-(1 << bits - 1), 1 << bits - 1, count).astype(np.int8)
    packed = weights.pack_signed(values, bits)
    assert len(packed) == -(-count * bits // 8)
    assert weights.signed_bits(values) <= bits
    found = np.full(count + 7, 99, np.int8)
    source = packed + bytes(8)
    unpack.unpack(source, bits, ctypes.c_int64(count), found.ctypes.data_as(ctypes.c_void_p))
    assert np.array_equal(found[:count], values)


@pytest.mark.parametrize(
    ("low", "high", "bits"), [(0, 0, 1), (-1, 0, 1), (-1, 1, 2), (-2, 1, 2), (-7, 7, 4), (-8, 8, 5), (-128, 3, 8)]
)
def test_bits_of_values(low: int, high: int, bits: int) -> None:
    assert weights.signed_bits(np.array([low, high, 0], np.int8)) == bits


def test_an_artefact_stores_low_bits_and_gives_the_reference_bytes(tmp_path: Path) -> None:
    """On an instruction set whose kernels keep weights as they are, so that the file says how many bits they have."""
    target = load_target("host").model_copy(update={"features": (), "wanted_isa": "portable_c"})
    layers = [Layer(16, weight_bits=8), Layer(16, weight_bits=4), Layer(16, weight_bits=2), Layer(3, shuffle=2)]
    program = build_program(layers, seed=3)
    for name, value in list(program.named_buffers()):
        setattr(program, name, value.clone())
    folder = build_artefact(program, tmp_path / "low", target, name="low")
    sizes = read_manifest(folder)["weight_bytes"]
    whole = [9 * 4 * 16, 9 * 16 * 16, 9 * 16 * 16, 9 * 16 * 12]
    assert sizes["unpacked"] == sum(whole)
    assert sizes["stored"] == whole[0] + whole[1] // 2 + whole[2] // 4 + whole[3]
    assert (folder / "params.bin").stat().st_size < sizes["stored"] + 64 * 40
    image = noise(20, 21)
    assert np.array_equal(run_executable(folder, image), reference(program, image))


def test_weights_of_winograd_kernels_are_stored_before_their_transform(tmp_path: Path) -> None:
    program = build_program([Layer(64, bits=4), Layer(64, weight_bits=4), Layer(3, shuffle=2)], seed=5)
    for name, value in list(program.named_buffers()):
        setattr(program, name, value.clone())
    seen = []

    def choose(spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
        forms = [form for form in kernels.candidates(spec, isa, conv) if form.algorithm.startswith("winograd")]
        seen.extend(forms)
        return forms[-1] if forms else kernels.plain(spec, isa, conv)

    folder = build_artefact(program, tmp_path / "low", load_target("host"), name="low", choose=choose)
    if not seen:
        pytest.skip("the instruction set of this machine has no such kernel for these layers")
    assert any(name.startswith("winograd") for name in read_manifest(folder)["algorithms"].values())
    sizes = read_manifest(folder)["weight_bytes"]
    assert sizes["stored"] <= 4 * 9 * 64 + 64 * 64 * 9 // 2 + 64 * 16 * 9
    assert sizes["unpacked"] > 64 * 64 * 9 * 4 // 3
    image = noise(20, 21)
    for threads, tile in ((None, None), (2, 14)):
        assert np.array_equal(run_executable(folder, image, threads, tile), reference(program, image))
