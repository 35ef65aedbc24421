"""Piecewise quantizers: on the lattice, with zero, better than uniform ones where there are outliers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qsearch.allocation import Allocation, SiteAllocation, uniform
from qsearch.errors import QsearchError
from qsearch.integer.ops import snap
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.quant.grid import Grid, activation_grid
from qsearch.quant.observers import ValueStats, mse
from qsearch.quant.piecewise import piecewise_grid
from tests.tiny import TINY


def values(grid: Grid) -> NDArray[np.float64]:
    """The real values of a grid."""
    q = torch.arange(grid.lo, grid.hi + 1)
    lattice = snap(q, torch.tensor(grid.pieces)) if grid.pieces else q
    return (np.unique(lattice.numpy()) - grid.zero_point) * grid.scale


def error(grid: Grid, sample: NDArray[np.float64]) -> float:
    return float(np.mean(np.abs(values(grid)[:, None] - sample).min(0) ** 2))


def sample_of(kind: str, seed: int) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    heavy = random.standard_t(3, 5000)
    return {
        "signed": heavy,
        "positive": np.abs(heavy),
        "negative": -np.abs(heavy),
        "lopsided": np.maximum(heavy, -0.5),
    }[kind]


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(["signed", "positive", "negative", "lopsided"]), st.integers(3, 6), st.integers(0, 99))
def test_fits_the_bits_and_the_lattice(kind: str, bits: int, seed: int) -> None:
    sample = sample_of(kind, seed)
    stats = ValueStats.of(sample.astype(np.float32), float(sample.min()), float(sample.max()))
    grid = piecewise_grid(stats, bits)
    assert grid.pieces is not None
    low_break, high_break, ratio = grid.pieces
    assert grid.lo == 0
    assert grid.hi <= 255
    assert low_break <= grid.zero_point <= high_break
    assert (low_break - grid.lo) % ratio == 0
    assert (grid.hi - high_break) % ratio == 0
    assert len(values(grid)) <= 2**bits
    assert 0.0 in values(grid)
    if kind == "positive":
        assert values(grid).min() == 0


@pytest.mark.parametrize("kind", ["signed", "positive", "lopsided"])
def test_outliers_cost_less_than_on_a_uniform_grid(kind: str) -> None:
    sample = sample_of(kind, 5)
    stats = ValueStats.of(sample.astype(np.float32), float(sample.min()), float(sample.max()))
    assert error(piecewise_grid(stats, 4), sample) < 0.8 * error(activation_grid(*mse(stats, 4), 4), sample)


def test_the_integer_network_holds_only_values_of_the_quantizer() -> None:
    images = [np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)]
    network = CalibratedNetwork.make(load(TINY), images)
    base = uniform(network.sites, 4, 4)
    chosen = {
        name: SiteAllocation(bits=4, quantizer="piecewise") if name in ("conv1.input", "conv2.input") else site
        for name, site in base.sites.items()
    }
    program = network.program(Allocation(sites=chosen))
    found = [len(program.get_buffer(name)) for name, _ in program.named_buffers() if "_bounds" in name]
    assert found.count(6) == 2
    seen = torch.fx.Interpreter(program)
    stored = {}
    seen.run_node = lambda n, run=seen.run_node: stored.setdefault(n, run(n))  # type: ignore[method-assign]
    seen.run(torch.from_numpy(images[0]).permute(2, 0, 1)[None])
    counts = [len(value.unique()) for node, value in stored.items() if node.name.startswith("requantize")]
    assert sorted(counts)[:2] == [min(c, 16) for c in sorted(counts)[:2]]


def test_weights_and_few_bits_are_refused() -> None:
    images = [np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)]
    network = CalibratedNetwork.make(load(TINY), images)
    base = uniform(network.sites, 4, 4)
    for site, bits, words in (("conv1.weight", 4, "only activations"), ("conv1.input", 2, "less than 3 bits")):
        setting = SiteAllocation(bits=bits, quantizer="piecewise")
        with pytest.raises(QsearchError, match=words):
            network.program(Allocation(sites={**base.sites, site: setting}))
