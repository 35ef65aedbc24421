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
from qsearch.quant.choice import squared_error
from qsearch.quant.grid import Codes, Grid, activation_grid
from qsearch.quant.moments import Moments
from qsearch.quant.observers import ValueStats, mse
from qsearch.quant.piecewise import _lattice, inside_share, piecewise_grid
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


def stats_of(kind: str, seed: int = 3) -> ValueStats:
    sample = sample_of(kind, seed).astype(np.float32)
    return ValueStats.of(sample, float(sample.min()), float(sample.max()))


@pytest.mark.parametrize("kind", ["signed", "positive", "negative", "lopsided"])
@pytest.mark.parametrize(("bits", "span"), [(3, 15), (4, 31), (5, 63), (4, 15)])
def test_a_span_is_kept_and_costs_squared_error(kind: str, bits: int, span: int) -> None:
    stats = stats_of(kind)
    grid, free = piecewise_grid(stats, bits, span=span), piecewise_grid(stats, bits)
    assert grid.span <= span
    assert len(values(grid)) <= 2**bits
    assert squared_error(stats, free) <= squared_error(stats, grid) * 1.02


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["signed", "positive", "negative"]), st.sampled_from([0.7, 0.9, 0.98]), st.integers(2, 8))
def test_breakpoints_and_ratio_are_as_asked(kind: str, inside: float, ratio: int) -> None:
    stats = stats_of(kind)
    grid = piecewise_grid(stats, 4, inside, ratio)
    assert inside_share(stats, grid) == pytest.approx(inside, abs=0.03)
    assert grid.pieces is not None
    assert grid.pieces[2] == ratio


def test_what_calibration_picks_is_found_again_by_its_own_values() -> None:
    stats = stats_of("signed")
    grid = piecewise_grid(stats, 4)
    assert grid.pieces is not None
    again = piecewise_grid(stats, 4, inside_share(stats, grid), grid.pieces[2])
    assert squared_error(stats, again) == pytest.approx(squared_error(stats, grid), rel=0.02)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["signed", "lopsided"]), st.integers(3, 6), st.integers(1, 9))
def test_the_error_by_look_up_is_that_of_the_lattice(kind: str, bits: int, ratio: int) -> None:
    """The search sums over codes; the integer network rounds and snaps, even ratios outwards."""
    stats = stats_of(kind)
    grid = piecewise_grid(stats, bits, ratio=ratio)
    codes = Codes.of(grid)
    row = np.array([[codes.below, codes.dense, codes.above, codes.zero, ratio]])
    lattice, ends = _lattice(row)
    found = Moments.of(stats).squared_errors(lattice * grid.scale, ends * grid.scale)[0]
    assert found / stats.counts.sum() == pytest.approx(squared_error(stats, grid), rel=1e-3)


def test_constant_and_dead_sites_have_a_grid() -> None:
    for lo, hi in ((0.0, 0.0), (2.0, 2.0), (-1.0, -1.0)):
        grid = piecewise_grid(ValueStats.of(np.full(100, lo, np.float32), lo, hi), 4)
        assert 0.0 in values(grid)


def test_a_ratio_that_does_not_fit_is_named() -> None:
    with pytest.raises(QsearchError, match="ratio of 30 does not fit 4 bits within a span of 31"):
        piecewise_grid(stats_of("signed"), 4, ratio=30, span=31)
