"""Observers: what range of the values a quantizer covers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qsearch.quant import OBSERVERS, ValueStats, activation_grid

SAMPLES = st.builds(
    lambda seed, shift, tail: shift + np.random.default_rng(seed).standard_t(tail, 4000).astype(np.float32),
    st.integers(0, 2**31),
    st.floats(-3, 3),
    st.integers(3, 30),
)


def stats_of(sample: NDArray[np.float32]) -> ValueStats:
    return ValueStats.of(sample, float(sample.min()), float(sample.max()))


def error(sample: NDArray[np.float32], observer: str, bits: int) -> float:
    grid = activation_grid(*OBSERVERS[observer](stats_of(sample), bits), bits)  # type: ignore[index]
    codes = np.clip(np.rint(sample / grid.scale) + grid.zero_point, grid.lo, grid.hi)
    return float(np.mean(((codes - grid.zero_point) * grid.scale - sample) ** 2))


@settings(max_examples=25, deadline=None)
@given(SAMPLES, st.integers(2, 8))
def test_mse_is_never_much_worse_than_the_others(sample: NDArray[np.float32], bits: int) -> None:
    """Bins and the sample's ends leave a little to chance."""
    assert error(sample, "mse", bits) <= 1.05 * error(sample, "minmax", bits) + 1e-9
    assert error(sample, "mse", bits) <= 1.05 * error(sample, "percentile", bits) + 1e-9


@settings(max_examples=25, deadline=None)
@given(SAMPLES)
def test_more_bits_never_cost_quality(sample: NDArray[np.float32]) -> None:
    errors = [error(sample, "mse", bits) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


@given(SAMPLES, st.integers(2, 8), st.sampled_from(sorted(OBSERVERS)))
@settings(max_examples=25, deadline=None)
def test_ranges_lie_within_what_was_seen(sample: NDArray[np.float32], bits: int, observer: str) -> None:
    stats = stats_of(sample)
    lo, hi = OBSERVERS[observer](stats, bits)  # type: ignore[index]
    assert min(stats.lo, 0.0) - 1e-6 <= lo <= hi <= max(stats.hi, 0.0) + 1e-6


def test_minmax_keeps_everything_and_percentile_drops_the_tail() -> None:
    sample = np.concatenate([np.linspace(0, 1, 10_000), [50.0]]).astype(np.float32)
    assert OBSERVERS["minmax"](stats_of(sample), 8) == (0.0, 50.0)
    lo, hi = OBSERVERS["percentile"](stats_of(sample), 8)
    assert lo == 0.0
    assert hi == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
@pytest.mark.parametrize("observer", sorted(OBSERVERS))
def test_a_constant_is_kept(value: float, observer: str) -> None:
    sample = np.full(100, value, np.float32)
    grid = activation_grid(*OBSERVERS[observer](stats_of(sample), 8), 8)  # type: ignore[index]
    code = np.clip(np.rint(value / grid.scale) + grid.zero_point, grid.lo, grid.hi)
    assert (code - grid.zero_point) * grid.scale == pytest.approx(value, abs=0.02)
