"""Piecewise linear quantizers on the int8 lattice: a dense middle, and coarser steps for the outliers on either side.

Fang et al., "Post-training piecewise linear quantization", ECCV 2020; here the outer step is an integer multiple of the
dense one and zero is a value, so that the integer network runs it unchanged (see `qsearch.integer.ops.snap`).
"""

from dataclasses import replace
from itertools import product

import numpy as np

from qsearch.quant.grid import Codes, Grid
from qsearch.quant.observers import ValueStats, squared_errors

_RATIOS = (2, 3, 4, 5, 6, 8)
_OUTER_SHARES = (0.25, 0.375, 0.5, 0.625)
_SHRINKS = np.geomspace(1.0, 0.1, 40)
_SWEEPS = 3


def piecewise_grid(stats: ValueStats, bits: int) -> Grid:
    """The piecewise quantizer of at most 2^bits values with the least mean squared error on the histogram of `stats`.

    Starts from several step ratios and shares of outer codes, then improves scale, zero and the sides by turns. A side
    without outliers gives its codes to the other. `bits` is at least 3.
    """
    found = [_descend(stats, bits, ratio, share) for ratio, share in product(_RATIOS, _OUTER_SHARES)]
    grid, _ = min(found, key=lambda entry: entry[1])
    return replace(grid, scale=float(np.float32(grid.scale)))


def _descend(stats: ValueStats, bits: int, ratio: int, share: float) -> tuple[Grid, float]:
    """The grid of least error that is found from a share of outer codes, and its error."""
    count = 2**bits
    outer = max(1, round(count * share))
    lo, hi = min(stats.lo, 0.0), max(stats.hi, 0.0)
    negative = -lo / ((hi - lo) or 1.0)
    below, dense = round(outer * negative), count - outer
    codes = Codes(below, dense, outer - below, min(round((dense - 1) * negative), dense - 1))
    best = _best_scale(stats, codes, ratio)
    for _ in range(_SWEEPS):
        before = best[1]
        for change in _moves(Codes.of(best[0]), ratio, stats):
            trial = _best_scale(stats, change, ratio)
            if trial[1] < best[1]:
                best = trial
        if best[1] >= before:
            break
    return best


def _moves(codes: Codes, ratio: int, stats: ValueStats) -> list[Codes]:
    """Neighbours: zero moved, or an outer code given to the other side; none where all values have one sign."""
    if stats.lo >= 0 or stats.hi <= 0:
        return []
    moved = [replace(codes, zero=codes.zero + step) for step in (-2, -1, 1, 2)]
    moved += [replace(codes, below=codes.below + step, above=codes.above - step) for step in (-2, -1, 1, 2)]
    return [c for c in moved if 0 <= c.zero < c.dense and min(c.below, c.above) >= 0 and ratio <= c.largest_ratio]


def _best_scale(stats: ValueStats, codes: Codes, ratio: int) -> tuple[Grid, float]:
    """The grid of `codes` with the best of some scales, and its error; infinite where it has too many values."""
    grid = codes.grid(1.0, ratio)
    if ratio > codes.largest_ratio:
        return grid, np.inf
    low, high = grid.lo - grid.zero_point, grid.hi - grid.zero_point
    reach = [stats.hi / high if high > 0 else 0.0, stats.lo / low if low < 0 else 0.0]
    scales = _SHRINKS * (max(reach) or 1.0)
    errors = squared_errors(stats, grid, scales)
    best = int(np.argmin(errors))
    return replace(grid, scale=float(scales[best])), float(errors[best])
