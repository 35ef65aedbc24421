"""The integer operations on their own."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from qsearch.integer import ops


@st.composite
def pieces(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """lo, low_break, high_break, hi and ratio of a piecewise quantizer: lo and hi lie on its outer grid."""
    ratio = draw(st.integers(1, 255))
    low_break = draw(st.integers(0, 255))
    high_break = draw(st.integers(low_break, 255))
    below = draw(st.integers(0, low_break // ratio))
    above = draw(st.integers(0, (255 - high_break) // ratio))
    return low_break - below * ratio, low_break, high_break, high_break + above * ratio, ratio


@given(pieces())
def test_snap_finds_the_nearest_value_of_the_quantizer(case: tuple[int, int, int, int, int]) -> None:
    lo, low_break, high_break, hi, ratio = case
    grid = torch.tensor(
        [*range(lo, low_break, ratio), *range(low_break, high_break + 1), *range(high_break + ratio, hi + 1, ratio)]
    )
    q = torch.arange(lo, hi + 1, dtype=torch.int32)
    snapped = ops.snap(q, torch.tensor([low_break, high_break, ratio], dtype=torch.int32))
    assert set(snapped.tolist()) <= set(grid.tolist())
    distance = (q.view(-1, 1) - grid).abs().min(1).values
    assert torch.equal((snapped - q).abs(), distance.int())


def test_requantize_rounds_half_to_even_then_snaps() -> None:
    acc = torch.tensor([-200, -5, -3, -1, 0, 1, 3, 5, 13, 200], dtype=torch.int32).view(1, 1, 1, -1)
    half = torch.tensor([0.5])
    uniform = ops.requantize(acc, half, half, torch.tensor([10, 2, 50], dtype=torch.int32))
    assert uniform.flatten().tolist() == [2, 8, 8, 10, 10, 10, 12, 12, 16, 50]
    bounds = torch.tensor([10, 2, 50, 10, 14, 4], dtype=torch.int32)
    assert ops.requantize(acc, half, half, bounds).flatten().tolist() == [2, 6, 6, 10, 10, 10, 12, 12, 18, 50]
