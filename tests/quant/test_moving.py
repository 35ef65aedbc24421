"""Calibration as published: moving averages of bounds and breakpoint, and lattice quantizers of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from qsearch.allocation import uniform
from qsearch.errors import QsearchError
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.quant.choice import with_quantizers
from qsearch.quant.grid import Codes, activation_grid
from qsearch.quant.moving import MovingRange, moving_ranges, piecewise_of, published_start
from tests.tiny import TINY


def pictures(count: int) -> list[NDArray[np.uint8]]:
    return [np.random.default_rng(i).integers(0, 256, (20 + i % 3, 24, 3), np.uint8) for i in range(count)]


@pytest.fixture(scope="module")
def network() -> CalibratedNetwork:
    return CalibratedNetwork.make(load(TINY), pictures(3))


def test_one_batch_gives_its_own_range_and_later_ones_a_tenth(network: CalibratedNetwork) -> None:
    one, two = (moving_ranges(network.calibration, pictures(count)) for count in (5, 20))
    assert one.keys() == two.keys() == network.calibration.stats.keys()
    for found in one.values():
        assert found.lo <= 0 <= found.breakpoint <= max(-found.lo, found.hi)
    start, new = MovingRange(-1.0, 2.0, 0.5), MovingRange(-3.0, 4.0, 1.5)
    assert start.follow(new).hi == pytest.approx(2.2)
    assert start.follow(new).lo == pytest.approx(-1.2)
    assert start.follow(new).breakpoint == pytest.approx(0.6)


def test_the_percentile_of_values_lies_below_that_of_magnitudes(network: CalibratedNetwork) -> None:
    magnitude, value = (moving_ranges(network.calibration, pictures(4), kind) for kind in ("magnitude", "value"))  # type: ignore[arg-type]
    assert all(value[site].breakpoint <= magnitude[site].breakpoint for site in value)
    assert any(value[site].breakpoint < magnitude[site].breakpoint for site in value)


@given(st.floats(-50, 0), st.floats(0, 50), st.floats(0, 10), st.integers(3, 7))
def test_grids_of_ranges_fit_the_bits_and_the_lattice(lo: float, hi: float, inside: float, bits: int) -> None:
    grid = piecewise_of(MovingRange(lo, hi, inside), bits)
    codes = Codes.of(grid)
    assert codes.below + codes.dense + codes.above <= 2**bits
    assert 0 <= grid.lo <= grid.zero_point <= grid.hi <= 255


def test_an_empty_side_gives_its_codes_to_the_other() -> None:
    both = Codes.of(piecewise_of(MovingRange(-6.0, 6.0, 1.0), 4))
    assert (both.below, both.dense, both.above) == (4, 8, 4)
    upper = Codes.of(piecewise_of(MovingRange(-0.5, 6.0, 1.0), 4))
    assert (upper.below, upper.dense, upper.above) == (0, 8, 8)
    positive = piecewise_of(MovingRange(0.0, 6.0, 1.0), 4)
    assert Codes.of(positive) == Codes(0, 8, 8, 0)
    assert positive.zero_point == 0
    assert piecewise_of(MovingRange(-1.0, 1.0, 1.0), 4) == activation_grid(-1.0, 1.0, 4)


def test_a_network_starts_at_them(network: CalibratedNetwork) -> None:
    wanted = with_quantizers(network.calibration, uniform(network.sites, 4, 4), "piecewise")
    ranges = moving_ranges(network.calibration, pictures(4))
    start = published_start(network.calibration, wanted, ranges)
    assert start.grids["conv1.input"] == piecewise_of(ranges["conv1.input"], 4)
    network.program(wanted, start)(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


def test_no_images_are_refused(network: CalibratedNetwork) -> None:
    with pytest.raises(QsearchError, match="at least one"):
        moving_ranges(network.calibration, [])
