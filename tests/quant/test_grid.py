"""Grids: at most 2^bits values with an exact zero; weights keep the sum of every kernel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.quant import activation_grid, weight_grid
from qsearch.quant.grid import Grid
from qsearch.quant.observers import weight_scale

BITS = st.integers(2, 8)
REAL = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@given(REAL, REAL, BITS)
def test_a_grid_has_at_most_two_to_the_bits_values_and_an_exact_zero(a: float, b: float, bits: int) -> None:
    grid = activation_grid(min(a, b), max(a, b), bits)
    assert grid.span + 1 <= 2**bits
    assert 0 <= grid.lo <= grid.zero_point <= grid.hi <= 255
    assert grid.scale > 0
    assert float(np.float32(grid.scale)) == grid.scale


@given(st.floats(0, 1e4, width=32), st.floats(0, 1e4, width=32), BITS)
def test_without_negative_values_the_zero_point_is_0(a: float, b: float, bits: int) -> None:
    assert activation_grid(min(a, b), max(a, b), bits).zero_point == 0


@given(st.floats(-1e3, -1e-3), st.floats(1e-3, 1e3), BITS)
def test_the_ends_of_the_range_are_reached_to_half_a_step(lo: float, hi: float, bits: int) -> None:
    grid = activation_grid(lo, hi, bits)
    tolerance = 0.51 * grid.scale
    assert (grid.lo - grid.zero_point) * grid.scale == pytest.approx(lo, abs=tolerance)
    assert (grid.hi - grid.zero_point) * grid.scale == pytest.approx(hi, abs=tolerance)


@given(st.floats(-10, 10), BITS)
def test_clip_bounds_stay_on_the_lattice(bound: float, bits: int) -> None:
    grid = activation_grid(-2.0, 3.0, bits)
    relu = grid.clipped(0.0, None)
    assert (relu.lo, relu.hi, relu.scale) == (grid.zero_point, grid.hi, grid.scale)
    clipped = grid.clipped(-1.0, bound)
    assert grid.lo <= clipped.lo <= clipped.hi <= grid.hi


def test_an_image_clipped_to_its_own_range_is_unchanged() -> None:
    image = Grid(float(np.float32(1 / 255)), 0, 0, 255)
    assert image.clipped(0.0, 1.0) == image


WEIGHTS = st.builds(
    lambda seed, outputs, inputs, side: torch.randn(
        (outputs, inputs, side, side), generator=torch.Generator().manual_seed(seed)
    ),
    st.integers(0, 2**31),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([1, 3, 5]),
)


@settings(deadline=None)
@given(WEIGHTS, BITS, st.sampled_from(["minmax", "percentile", "mse"]))
def test_kernel_sums_are_kept_to_half_a_step(weight: torch.Tensor, bits: int, observer: str) -> None:
    scale = weight_scale(weight, bits, observer)  # type: ignore[arg-type]
    grid = weight_grid(weight, scale, bits)
    top = 2 ** (bits - 1) - 1
    assert grid.values.dtype == torch.int8
    assert grid.scale.shape == (weight.shape[0],)
    assert int(grid.values.abs().max()) <= top
    real = weight / scale.view(-1, 1, 1, 1)
    off = (real.double().sum((2, 3)) - grid.values.double().sum((2, 3))).abs()
    saturated = (real.abs() > top + 0.5).flatten(2).any(2) | (grid.values.abs() == top).flatten(2).all(2)
    assert bool((off <= 0.5 + 1e-4)[~saturated].all())


@settings(deadline=None)
@given(WEIGHTS)
def test_no_weight_moves_by_more_than_a_step_at_8_bits(weight: torch.Tensor) -> None:
    grid = weight_grid(weight, weight_scale(weight, 8, "minmax"), 8)
    assert bool(((grid.dequantize() - weight).abs() <= 1.01 * grid.scale.view(-1, 1, 1, 1)).all())


def test_every_output_channel_has_its_own_scale() -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weight = weight * torch.tensor([1e-3, 1.0, 10.0, 1e3]).view(-1, 1, 1, 1)
    for observer, most in (("minmax", 0.02), ("mse", 0.02), ("percentile", 0.1)):  # percentile clips the largest tap
        grid = weight_grid(weight, weight_scale(weight, 8, observer), 8)  # type: ignore[arg-type]
        error = (grid.dequantize() - weight).flatten(1).norm(dim=1) / weight.flatten(1).norm(dim=1)
        assert float(error.max()) < most, observer


def test_a_channel_of_zeros_stays_zero() -> None:
    weight = torch.zeros(2, 3, 3, 3)
    weight[1] = 0.5
    for observer in ("minmax", "percentile", "mse"):
        grid = weight_grid(weight, weight_scale(weight, 4, observer), 4)  # type: ignore[arg-type]
        assert bool((grid.dequantize()[0] == 0).all())
        assert bool(torch.isfinite(grid.scale).all())
        assert bool((grid.scale > 0).all())
