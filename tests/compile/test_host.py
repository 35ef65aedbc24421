"""Running compiled networks: other allocations, image sizes, threads, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import Graph, GraphModule

from qsearch.compile import kernels
from qsearch.compile.host import HostNetwork
from qsearch.compile.plan import build
from qsearch.compile.threads import available
from qsearch.compile.timing import peak_loop, step_times
from qsearch.errors import QsearchError
from qsearch.integer import ops
from tests.random_programs import Layer, build_program, random_program, reference

CHAIN = [Layer(8), Layer(8, skips=1), Layer(3, shuffle=2)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel cache shared by the tests of this file."""
    return tmp_path_factory.mktemp("kernels")


def image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_one_compiled_network_runs_other_allocations(cache: Path) -> None:
    first = build_program(CHAIN, seed=0)
    network = HostNetwork(first, cache=cache)
    np.testing.assert_array_equal(network.run(image(9, 20)), reference(first, image(9, 20)))
    compiled = set(cache.iterdir())
    second = build_program(CHAIN, seed=1)
    network.set_program(second)
    np.testing.assert_array_equal(network.run(image(9, 20)), reference(second, image(9, 20)))
    assert set(cache.iterdir()) == compiled
    # Another number of quantizers is another kernel, not another network.
    third = build_program([Layer(8, quantizers=3), *CHAIN[1:]], seed=2)
    network.set_program(third)
    np.testing.assert_array_equal(network.run(image(9, 20)), reference(third, image(9, 20)))


def test_sizes_in_any_order_share_memory(cache: Path) -> None:
    program = build_program(CHAIN, seed=3)
    network = HostNetwork(program, cache=cache)
    for size in [(4, 5), (30, 40), (4, 5), (1, 1), (31, 41), (30, 40)]:
        np.testing.assert_array_equal(network.run(image(*size)), reference(program, image(*size)))


def test_threads_change_at_run_time_but_not_the_bytes(cache: Path) -> None:
    program = build_program(CHAIN, seed=4)
    network = HostNetwork(program, cache=cache)
    for count in [*range(1, available() + 1), 1]:
        network.threads = count
        np.testing.assert_array_equal(network.run(image(17, 23)), reference(program, image(17, 23)))
    with pytest.raises(QsearchError, match="threads must be 1 to"):
        network.threads = available() + 1


def test_read_only_and_strided_images(cache: Path) -> None:
    program = build_program(CHAIN, seed=5)
    network = HostNetwork(program, cache=cache)
    whole = image(20, 40)
    whole.flags.writeable = False
    expected = reference(program, whole[:, ::2])
    np.testing.assert_array_equal(network.run(whole[:, ::2]), expected)
    np.testing.assert_array_equal(network.run(whole), reference(program, whole))


def test_impossible_images_are_refused(cache: Path) -> None:
    network = HostNetwork(build_program([Layer(8, kernel=(5, 5), same=False), Layer(3)], seed=0), cache=cache)
    with pytest.raises(QsearchError, match="4x6 pixels is too small: the network needs at least 5x5"):
        network.run(image(6, 4))
    with pytest.raises(QsearchError, match="uint8"):
        network.run(image(6, 6).astype(np.float32))
    with pytest.raises(QsearchError, match="too large"):
        network.plan.sizes(2**14, 2**15)
    with pytest.raises(QsearchError, match="cannot run 'sve'"):
        HostNetwork(random_program(0), isa="sve", cache=cache)


def test_halo_is_the_receptive_field() -> None:
    same = [Layer(4, kernel=(3, 3)), Layer(4, shuffle=2), Layer(3, kernel=(9, 9))]
    assert build(build_program(same, seed=0), "generic").halo == 1 + 1 + 2  # 4 pixels of the doubled image are 2
    assert build(build_program([Layer(3, kernel=(1, 1))], seed=0), "generic").halo == 0


def test_slots_are_shared_by_buffers_that_are_never_alive_together() -> None:
    plan = build(build_program([Layer(8)] * 6 + [Layer(3)], seed=0), "generic")
    assert len(plan.buffers) == 9
    assert len(plan.slot_bytes(10, 10)) == 2


def test_operations_without_a_kernel_are_named() -> None:
    graph = Graph()
    source = graph.placeholder("image")
    repeated = graph.call_function(ops.repeat_channels, (source, 2), name="twice")
    weights = {"w": torch.zeros(3, 6, 1, 1, dtype=torch.int8), "b": torch.zeros(3, dtype=torch.int32)}
    module = nn.Module()
    for name, value in weights.items():
        module.register_buffer(name, value)
    weight, zeros = graph.get_attr("w"), graph.get_attr("b")
    acc = graph.call_function(ops.conv_acc, (repeated, weight, zeros, zeros, zeros), name="conv")
    graph.output(graph.call_function(ops.requantize, (acc, zeros, zeros, zeros)))
    with pytest.raises(QsearchError, match=r"'conv'.*'twice'"):
        build(GraphModule(module, graph), "generic")
    acc.target = torch.relu
    acc.args = (repeated,)
    with pytest.raises(QsearchError, match="'conv': no kernel"):
        build(GraphModule(module, graph), "generic")


def test_step_times_count_the_work(cache: Path) -> None:
    network = HostNetwork(build_program(CHAIN, seed=6), cache=cache)
    times = step_times(network, image(10, 20), rounds=1)
    assert [step.gmac * 1e9 for step in times] == pytest.approx([200 * 9 * 4 * 8, 200 * 9 * 8 * 8, 200 * 9 * 8 * 12])
    assert all(step.best_ms > 0 for step in times)


@pytest.mark.skipif(not {"avx512_vnni", "avx_vnni"} & {*kernels.host_isas()}, reason="the processor has no VNNI")
def test_peak_loop_runs() -> None:
    call, gmac = peak_loop(kernels.host_isas()[0], 1)
    call()
    assert gmac > 0
