"""Every kernel on every instruction set gives the bytes of the integer operations."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.fx import GraphModule

from qsearch.compile import kernels
from qsearch.compile.host import HostNetwork
from tests.random_programs import Layer, build_program, layers, reference

# With a population count, AVX512-VNNI has the same kernels and some more.
ISAS = [isa for isa in kernels.host_isas() if (isa, kernels.host_isas()[0]) != ("avx512_vnni", "avx512_popcnt")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel cache shared by the tests of this file."""
    return tmp_path_factory.mktemp("kernels")


def assert_same_bytes(program: GraphModule, network: HostNetwork, sizes: list[tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    smallest = network.plan.minimum_size()
    for size in [smallest, *sizes]:
        height, width = np.maximum(size, smallest)
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        np.testing.assert_array_equal(network.run(image), reference(program, image), err_msg=f"{height}x{width}")


NETWORKS = {
    "edsr": [Layer(64), Layer(64), Layer(64, skips=1), Layer(64, shuffle=2), Layer(3)],
    "edsr_x3": [Layer(32), Layer(64, shuffle=3), Layer(3)],
    "wide": [Layer(128), Layer(128, skips=1, quantizers=2), Layer(3, shuffle=4)],
    "srresnet": [Layer(64, kernel=(9, 9), prelu=True), Layer(16, shuffle=2, prelu=True), Layer(3, kernel=(9, 9))],
    "piecewise": [Layer(16, piecewise=True), Layer(24, piecewise=True, prelu=True, quantizers=2), Layer(3, shuffle=2)],
    "abpn": [Layer(28), Layer(28), Layer(27), Layer(3, skips=1, shuffle=3)],
    "grouped": [Layer(24), Layer(24, groups=0), Layer(24, kernel=(1, 1), skips=2), Layer(3, shuffle=2)],
    "carn": [
        Layer(64),
        Layer(64, groups=4),
        Layer(64, kernel=(1, 1), skips=1, quantizers=2),
        Layer(64, kernel=(1, 1), joins=2),
        Layer(64, groups=4, shuffle=2),
        Layer(3),
    ],
    "joined": [
        Layer(7),
        Layer(18, shuffle=2),
        Layer(5, quantizers=2),
        Layer(9, joins=2, prelu=True),
        Layer(30, joins=3, skips=1),
        Layer(3, joins=1, skips=2),
    ],
    "strided": [Layer(16, stride=2), Layer(16, kernel=(5, 5), same=False), Layer(3, shuffle=2)],
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", NETWORKS)
def test_known_architectures(name: str, isa: str, cache: Path) -> None:
    program = build_program(NETWORKS[name], seed=1)
    assert_same_bytes(program, HostNetwork(program, isa=isa, cache=cache), [(5, 16), (3, 41)])


@pytest.mark.parametrize("isa", ISAS)
def test_random_networks(isa: str, cache: Path) -> None:
    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(chain=layers(), seed=st.integers(0, 999), size=st.tuples(st.integers(1, 9), st.integers(1, 50)))
    def check(chain: list[Layer], seed: int, size: tuple[int, int]) -> None:
        program = build_program(chain, seed)
        assert_same_bytes(program, HostNetwork(program, isa=isa, cache=cache), [size])

    check()
