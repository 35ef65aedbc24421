"""RefER in integers: the identity at first, close to the trained float form, and the same bytes compiled."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.errors import QsearchError
from qsearch.integer.ops import snap
from qsearch.patches.deployed import DeployedRefER, grid_of
from qsearch.patches.refer import RefER
from qsearch.patches.segments import Executor, Segment, compiled, interpreted
from qsearch.quant.grid import Grid, activation_grid
from tests.patches.test_refer import features

READERS = {
    "8 and 3 bits": [activation_grid(-3, 3.2, 8), activation_grid(-2, 2.5, 3)],
    "4 bits alone": [activation_grid(-2, 2.5, 4)],
    "8 bits, coarser": [activation_grid(-8, 9, 8), activation_grid(-1, 1, 2)],
    "piecewise": [Grid(0.05, 100, 40, 160, (80, 120, 4))],
}


def trained(fused: float, channels: int = 8, seed: int = 0) -> RefER:
    """A RefER that has seen features, with fusion weights of the given size."""
    torch.manual_seed(seed)
    module = RefER(channels)
    with torch.no_grad():
        module(features(0, 16, 16, channels), features(1, 16, 16, channels))
        torch.nn.init.normal_(module.fuse.get_parameter("weight"), std=max(fused, 1e-12)).mul_(fused > 0)
        torch.nn.init.normal_(module.fuse.get_parameter("bias"), std=max(fused, 1e-12)).mul_(fused > 0)
    return module.eval()


def on(grid: Grid, value: torch.Tensor) -> np.ndarray:
    """Codes [h, w, C] of a float feature [1, C, h, w]."""
    steps = torch.round(value[0] / grid.scale) + grid.zero_point
    codes = steps.clamp(grid.lo, grid.hi).to(torch.int32)
    if grid.pieces:
        codes = snap(codes, torch.tensor(grid.pieces))
    return codes.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def run(
    refer: DeployedRefER,
    readers: Sequence[Grid],
    query: torch.Tensor,
    reference: torch.Tensor,
    how: Callable[[Segment], Executor] = compiled,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The readers' codes before and after."""
    known = [on(grid, query) for grid in readers]
    execute = how(refer.fusion.segment)
    return known, refer.run(on(refer.grid, query), known, on(refer.grid, reference), execute)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("channels", [8, 6])
def test_a_fusion_of_zeros_changes_no_byte(name: str, channels: int) -> None:
    readers = READERS[name]
    refer = DeployedRefER.of(trained(0, channels), readers)
    for seed in range(3):
        known, found = run(refer, readers, 2 * features(seed, 18, 15, channels), features(9, 18, 15, channels))
        for old, new in zip(known, found, strict=True):
            np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(("fused", "most", "mean"), [(0.003, 1, 0.45), (0.1, 4, 0.65)])
def test_it_is_close_to_the_float_form(name: str, fused: float, most: int, mean: float) -> None:
    """The larger fusion more than doubles the feature."""
    readers, module = READERS[name], trained(fused)
    refer = DeployedRefER.of(module, readers)
    query, reference = features(2, 18, 15), features(3, 18, 15)
    _, found = run(refer, readers, query, reference)
    with torch.no_grad():
        wanted = module(query, reference)
    for grid, codes in zip(readers, found, strict=True):
        error = np.abs(codes.astype(int) - on(grid, wanted).astype(int))
        ratio = grid.pieces[2] if grid.pieces else 1
        assert error.max() <= (most if grid.span > 127 else max(1, ratio))
        # The query's own rounding to 8 bits moves a code of many bits, and one of few bits seldom.
        assert error.mean() < (mean if grid.span > 127 or grid.pieces else 0.12)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 99), st.sampled_from(sorted(READERS)), st.sampled_from([0.0, 1e-9, 0.02, 3.0]))
def test_the_kernels_give_the_bytes_of_the_operations(seed: int, name: str, fused: float) -> None:
    readers = READERS[name]
    refer = DeployedRefER.of(trained(fused, seed=seed), readers)
    query, reference = 3 * features(seed, 9, 14), 3 * features(seed + 1, 9, 14)
    for a, b in zip(*(run(refer, readers, query, reference, how)[1] for how in (compiled, interpreted)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_it_costs() -> None:
    module = trained(0.1)
    refer = DeployedRefER.of(module, READERS["4 bits alone"])
    keys, query = refer.bitops(16, 16)
    assert keys == 8 * 16 * 16 * 12 * 8
    assert keys < query < module.bitops(16, 16), "only cells are projected, and a reference once"


def test_without_a_range_it_cannot_be_deployed() -> None:
    with pytest.raises(QsearchError, match="train it first"):
        grid_of(RefER(8))
