"""Exact integer Winograd: every form gives the bytes of the operations, and is refused where it could not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm_ffi
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.compile import kernels, packing
from qsearch.compile.alignment import aligned_copy
from qsearch.compile.cache import host_kernel
from qsearch.compile.host import HostNetwork
from qsearch.compile.kernels.transforms import PLANES, Plane
from qsearch.compile.plan import build
from qsearch.compile.specs import ConvSpec, OutSpec
from tests.compile.emulation import MACHINES, Emulated
from tests.compile.test_kernels import ISAS, assert_same_bytes
from tests.random_programs import Layer, build_program, reference


def data_patterns(plane: Plane) -> np.ndarray:
    """The signs of the data coefficients of every position [positions, rows, columns]: what drives it to its limits."""
    rows = plane.vertical.data_matrix if plane.vertical else np.eye(1, dtype=np.int64)
    columns = plane.horizontal.data_matrix
    signs = np.sign(np.einsum("ia,jb->ijab", rows, columns))
    return signs.reshape(-1, rows.shape[1], columns.shape[1])


def weight_patterns(plane: Plane) -> np.ndarray:
    """Likewise of the weights [positions, 3, 3]."""
    rows = np.array(plane.vertical.weights) if plane.vertical else np.eye(3, dtype=np.int64)
    return np.sign(np.einsum("ia,jb->ijab", rows, np.array(plane.horizontal.weights))).reshape(-1, 3, 3)


def convolved(data: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The direct sums [outputs, rows, columns] of data [channels, rows, columns]."""
    windows = np.lib.stride_tricks.sliding_window_view(data.astype(np.int64), (3, 3), axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows, weight.astype(np.int64))


def emulated(plane: Plane, data: np.ndarray, weight: np.ndarray, lowest: int) -> np.ndarray:
    """The sums of one tile by the transforms, with data and weights stored in bytes as a kernel does."""
    offsets = plane.offsets(lowest)[:, :, None]
    transformed = plane.transform(weight).astype(np.int8).astype(np.int64)
    by_row = list(np.stack(plane.horizontal.data(list(data.transpose(2, 1, 0)))).transpose(1, 0, 2))
    rows = np.stack(plane.vertical.data(by_row) if plane.vertical else by_row)
    exact = (rows + offsets).astype(np.uint8).astype(np.int64) - offsets
    products = np.einsum("ijc,ocij->ijo", exact, transformed)
    sums = plane.vertical.sums(list(products)) if plane.vertical else [products.sum(0)]
    return np.stack([np.stack(plane.horizontal.sums(list(row)), -1) for row in sums], 1)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(PLANES)),
    bounds=st.tuples(st.integers(0, 255), st.integers(0, 255)).map(sorted),
    largest=st.integers(1, 64),
    seed=st.integers(0, 999),
)
def test_accepted_ranges_are_exact(name: str, bounds: list[int], largest: int, seed: int) -> None:
    plane, rng, (lowest, highest) = PLANES[name], np.random.default_rng(seed), bounds
    outputs = plane.vertical.outputs if plane.vertical else 1
    data = rng.choice([lowest, highest], (9, outputs + 2, plane.horizontal.inputs))
    patterns = rng.permutation(data_patterns(plane))[:4]
    for sign, at in ((1, 0), (-1, 4)):
        data[at : at + len(patterns), : patterns.shape[1]] = np.where(sign * patterns > 0, highest, lowest)
    weight = rng.integers(-largest, largest + 1, (3, 9, 3, 3))
    weight[:, 1:5] = largest * rng.permutation(weight_patterns(plane))[:4]
    if plane.data_fit(lowest, highest) and plane.weights_fit(plane.transform(weight)):
        expected = plane.factor * convolved(data, weight)
        np.testing.assert_array_equal(emulated(plane, data, weight, lowest), expected)


LARGEST_SPAN = {"3xf2": 127, "3xf4": 63, "f2xf2": 63, "f2xf4": 31, "f4xf4": 15}
LARGEST_WEIGHT = {"3xf2": 42, "3xf4": 42, "f2xf2": 14, "f2xf4": 14, "f4xf4": 14}


@pytest.mark.parametrize("name", PLANES)
def test_limits(name: str) -> None:
    plane, span, most = PLANES[name], LARGEST_SPAN[name], LARGEST_WEIGHT[name]
    for lowest in (0, 100, 255 - span):
        assert plane.data_fit(lowest, lowest + span)
    assert not plane.data_fit(0, span + 1)
    assert plane.weights_fit(plane.transform(np.full((1, 1, 3, 3), -most)))
    assert not plane.weights_fit(plane.transform(np.full((1, 1, 3, 3), most + 1)))


class Rotation:
    """Takes another Winograd form for every layer that has any."""

    def __init__(self, start: int) -> None:
        self.count, self.used = start, set[str]()

    def __call__(self, spec: ConvSpec, isa: str, conv: packing.Convolution) -> ConvSpec:
        forms = [form for form in kernels.candidates(spec, isa, conv) if form.algorithm.startswith("winograd")]
        if not forms:
            return kernels.plain(spec, isa, conv)
        self.count += 1
        form = forms[self.count % len(forms)]
        self.used.add(form.algorithm)
        return form


def low(channels: int, **traits: object) -> Layer:
    return replace(Layer(channels, bits=4, weight_bits=4), **traits)  # type: ignore[arg-type]


WIDE = [low(64), low(64, skips=1, quantizers=2), low(32, shuffle=2, prelu=True), Layer(3, weight_bits=4)]
ODD = [
    low(27, quantizers=2),
    low(27, same=False, piecewise=True, prelu=True),
    low(20, joins=1, skips=1),
    Layer(3, weight_bits=4, skips=1, shuffle=3),
]
BEST = kernels.host_isas()[0]


def test_networks(tmp_path: Path) -> None:
    used: set[str] = set()
    for layers, start in [(WIDE, 0), (WIDE, 2), (ODD, 1), (ODD, 3)]:
        program, choose = build_program(layers, seed=2), Rotation(start)
        network = HostNetwork(program, isa=BEST, cache=tmp_path, choose=choose)
        assert_same_bytes(program, network, [(5, 16), (9, 45)])
        used |= choose.used
    assert used == {f"winograd:{name}" for name in PLANES}


@pytest.mark.parametrize("name", PLANES)
def test_images_narrower_than_a_row_of_tiles(name: str, tmp_path: Path) -> None:
    """What a tile takes of such an image is a copy: LLVM must not find that nobody reads it."""

    def choose(spec: ConvSpec, isa: str, conv: packing.Convolution) -> ConvSpec:
        forms = [form for form in kernels.candidates(spec, isa, conv) if form.algorithm == f"winograd:{name}"]
        return forms[0] if forms else kernels.plain(spec, isa, conv)

    for channels in (32, 64):
        program = build_program([low(channels), low(channels), low(channels, skips=1), Layer(3)], seed=4)
        network = HostNetwork(program, isa=BEST, cache=tmp_path, choose=choose)
        assert_same_bytes(program, network, [(4, 8), (9, 9), (2, 15)])


@pytest.mark.parametrize("isa", [isa for isa in ISAS[1:] if isa in kernels.ISAS])
def test_other_instruction_sets(isa: str, tmp_path: Path) -> None:
    program = build_program(ODD, seed=2)
    network = HostNetwork(program, isa=isa, cache=tmp_path, choose=Rotation(3))
    assert_same_bytes(program, network, [(9, 45)])


def test_signed_hardware(tmp_path: Path) -> None:
    machine = MACHINES["arm_dotprod"]
    if not machine.available:
        pytest.skip(f"{machine.emulator[0]} is not installed")
    program = build_program(ODD, seed=2)
    plan = build(program, "arm_dotprod", Rotation(3))
    image = np.random.default_rng(0).integers(0, 256, (9, 25, 3), np.uint8)
    (output,) = Emulated([plan], machine, tmp_path, tmp_path).run([(plan, image)])
    np.testing.assert_array_equal(output, reference(program, image))


@pytest.mark.parametrize("name", PLANES)
def test_extreme_values(name: str, tmp_path: Path) -> None:
    plane, isa, rng = PLANES[name], kernels.host_isas()[0], np.random.default_rng(0)
    lowest, highest = 200 - LARGEST_SPAN[name], 200
    channels, size = 64, (13, 47)
    spec = ConvSpec((3, 3), 1, (0, 0), channels, 0, 16, (OutSpec(16, 0),))
    weight = LARGEST_WEIGHT[name] * rng.choice(weight_patterns(plane), (16, channels))
    weight[0], weight[1] = LARGEST_WEIGHT[name], -LARGEST_WEIGHT[name]
    pattern = rng.choice(data_patterns(plane), channels) * rng.choice([-1, 1], (channels, 1, 1))
    repeats = [-(-n // m) for n, m in zip(size, pattern.shape[1:], strict=True)]
    tiled = np.tile(pattern, (1, *repeats))[:, : size[0], : size[1]]
    image = np.where(tiled > 0, highest, lowest).transpose(1, 2, 0).astype(np.uint8)
    bounds = np.array([128, 0, 255], np.int32)
    m = np.full(16, 2.0**-12, np.float32)
    conv = packing.Convolution(
        weight.astype(np.int8), 1, np.zeros(16, np.int32), np.zeros(16, np.int32), [],
        [packing.Requantization(m, m, bounds, None)], (lowest, highest),
    )  # fmt: skip
    results: list[np.ndarray] = []
    for form in (kernels.plain(spec, isa, conv), replace(spec, algorithm=f"winograd:{name}")):
        assert form in kernels.candidates(spec, isa, conv)
        params = kernels.pack(form, isa, conv)
        output = aligned_copy(np.zeros((size[0] - 2) * (size[1] - 2) * 16, np.uint8)).reshape(size[0] - 2, -1, 16)
        arrays = [aligned_copy(image.ravel()).reshape(image.shape), output]
        arrays += [aligned_copy(params[name]) for name in form.param_names]
        host_kernel(form, isa, tmp_path)(*map(tvm_ffi.from_dlpack, arrays))
        results.append(output)
    np.testing.assert_array_equal(results[1], results[0])
