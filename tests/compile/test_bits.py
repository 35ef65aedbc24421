"""Bit-serial kernels: every form gives the bytes of the operations, and is refused where it could not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.fx import GraphModule

from qsearch.compile import kernels
from qsearch.compile.host import HostNetwork
from qsearch.compile.packing import Convolution
from qsearch.compile.specs import ConvSpec, OutSpec
from tests.compile.test_kernels import assert_same_bytes
from tests.random_programs import Layer, build_program, layers

ISA = "avx512_popcnt"
needs_popcount = pytest.mark.skipif(
    ISA not in kernels.host_isas(), reason="this processor does not count vectors' bits"
)


class Serial:
    """Takes the bit-serial form of every layer that has one."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def __call__(self, spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
        forms = [form for form in kernels.candidates(spec, isa, conv) if form.algorithm.startswith("bits")]
        self.used |= {form.algorithm for form in forms}
        return forms[0] if forms else kernels.plain(spec, isa, conv)


def low(channels: int, bits: int, weight_bits: int = 1, **traits: object) -> Layer:
    return replace(Layer(channels, bits=bits, weight_bits=weight_bits), **traits)  # type: ignore[arg-type]


def ternary(program: GraphModule) -> GraphModule:
    """The program with no weight of −2 where all have two bits."""
    for weights in program.buffers():
        if weights.dtype == torch.int8 and weights.min() >= -2 and weights.max() <= 1:
            weights.clamp_(min=-1)
    return program


NETWORKS = [
    [low(64, 1), low(64, 2, skips=1, quantizers=2), low(64, 1, 2, shuffle=2), Layer(3, weight_bits=1)],
    [low(28, 2), low(20, 1, joins=1, skips=1, prelu=True), low(32, 2, stride=2), low(3, 8, 2, shuffle=4)],
    [low(96, 2), low(50, 2, kernel=(1, 1), quantizers=2), low(16, 2, kernel=(5, 5)), low(3, 8, shuffle=2)],
]


@needs_popcount
def test_networks(tmp_path: Path) -> None:
    choose = Serial()
    for chain in NETWORKS:
        program = ternary(build_program(chain, seed=3))
        network = HostNetwork(program, isa=ISA, cache=tmp_path, choose=choose)
        assert_same_bytes(program, network, [(5, 16), (9, 77)])
    assert choose.used == {"bits:1", "bits:2", "bits:1:signs", "bits:2:signs"}


@needs_popcount
def test_random_networks(tmp_path: Path) -> None:
    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(chain=layers(grouped=False), seed=st.integers(0, 999), size=st.tuples(st.integers(1, 9), st.integers(1, 70)))
    def check(chain: list[Layer], seed: int, size: tuple[int, int]) -> None:
        few = [replace(layer, bits=1 + (seed + i) % 2, weight_bits=1 + seed // 2 % 2) for i, layer in enumerate(chain)]
        program = ternary(build_program(few, seed))
        assert_same_bytes(program, HostNetwork(program, isa=ISA, cache=tmp_path, choose=Serial()), [size])

    check()


def convolution(weight: np.ndarray, values: tuple[int, int]) -> tuple[ConvSpec, Convolution]:
    outputs, channels, *kernel = weight.shape
    spec = ConvSpec((kernel[0], kernel[1]), 1, (0, 0), channels, 0, outputs, (OutSpec(outputs, 0),))
    zeros = np.zeros(outputs, np.int32)
    return spec, Convolution(weight.astype(np.int8), 1, zeros, zeros, [], [], values)


def serial_forms(weight: np.ndarray, values: tuple[int, int], isa: str = ISA) -> list[str]:
    spec, conv = convolution(weight, values)
    return [form.algorithm for form in kernels.candidates(spec, isa, conv) if form.algorithm.startswith("bits")]


def test_limits() -> None:
    """The span of the values counts, not where they lie; any weight beyond -1 ... 1 is one too many."""
    signs = np.where(np.arange(16 * 32 * 9).reshape(16, 32, 3, 3) % 5 < 2, -1, 1)
    assert serial_forms(signs, (0, 1)) == serial_forms(signs, (254, 255)) == ["bits:1:signs"]
    assert serial_forms(signs, (7, 9)) == serial_forms(signs, (252, 255)) == ["bits:2:signs"]
    assert serial_forms(signs, (7, 11)) == []
    assert serial_forms(signs, (0, 1), "avx512_vnni") == []
    some = signs * (np.arange(32) % 2)[:, None, None]
    assert serial_forms(some, (0, 3)) == ["bits:2"]
    assert serial_forms(signs[:, :28], (0, 1)) == ["bits:1"]  # words with unused bits
    signs[3, 4, 1, 1] = -2
    assert serial_forms(signs, (0, 1)) == []
