"""Piecewise linear quantizers on the int8 lattice: a dense middle, and coarser steps for the outliers on either side.

Fang et al., "Post-training piecewise linear quantization", ECCV 2020; here the outer step is an integer multiple of the
dense one and zero is a value, so that the integer network runs it unchanged (see `qsearch.integer.ops.snap`).
"""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from qsearch.quant.grid import Grid
from qsearch.quant.observers import ValueStats

_RATIOS = (2, 3, 4, 5, 6, 8)
_OUTER_SHARES = (0.25, 0.375, 0.5, 0.625)
_SHRINKS = np.geomspace(1.0, 0.1, 40)
_SWEEPS = 3
_LARGEST = 255


@dataclass(frozen=True)
class _Shape:
    """A quantizer up to its scale: how many codes lie below, in and above the dense part, zero's place, the ratio."""

    below: int
    dense: int
    above: int
    zero: int
    ratio: int

    @property
    def low(self) -> int:
        """The lowest value in dense steps; the dense part starts at `-zero`."""
        return -self.zero - self.below * self.ratio

    @property
    def high(self) -> int:
        """The highest value in dense steps."""
        return self.dense - 1 - self.zero + self.above * self.ratio

    def grid(self, scale: float) -> Grid:
        """The lattice quantizer with this dense step."""
        start = self.below * self.ratio
        end = start + self.dense - 1
        return Grid(scale, -self.low, 0, self.high - self.low, (start, end, self.ratio))


def piecewise_grid(stats: ValueStats, bits: int) -> Grid:
    """The piecewise quantizer of at most 2^bits values with the least mean squared error on the histogram of `stats`.

    Starts from several step ratios and shares of outer codes, then improves scale, zero and the sides by turns. A side
    without outliers gives its codes to the other. `bits` is at least 3.
    """
    found = [_descend(stats, bits, ratio, share) for ratio, share in product(_RATIOS, _OUTER_SHARES)]
    shape, scale, _ = min(found, key=lambda entry: entry[2])
    return shape.grid(float(np.float32(scale)))


def _descend(stats: ValueStats, bits: int, ratio: int, share: float) -> tuple[_Shape, float, float]:
    codes = 2**bits
    outer = max(1, round(codes * share))
    lo, hi = min(stats.lo, 0.0), max(stats.hi, 0.0)
    negative = -lo / ((hi - lo) or 1.0)
    below = round(outer * negative)
    dense = codes - outer
    shape = _Shape(below, dense, outer - below, min(round((dense - 1) * negative), dense - 1), ratio)
    best = _best_scale(stats, shape)
    for _ in range(_SWEEPS):
        before = best[2]
        for change in _moves(best[0], stats):
            trial = _best_scale(stats, change)
            if trial[2] < best[2]:
                best = trial
        if best[2] >= before:
            break
    return best


def _moves(shape: _Shape, stats: ValueStats) -> list[_Shape]:
    """Neighbours: zero moved, or an outer code given to the other side; none where all values have one sign."""
    if stats.lo >= 0 or stats.hi <= 0:
        return []
    moved = [replace(shape, zero=shape.zero + step) for step in (-2, -1, 1, 2)]
    moved += [replace(shape, below=shape.below + step, above=shape.above - step) for step in (-2, -1, 1, 2)]
    return [s for s in moved if 0 <= s.zero < s.dense and min(s.below, s.above) >= 0 and s.high - s.low <= _LARGEST]


def _best_scale(stats: ValueStats, shape: _Shape) -> tuple[_Shape, float, float]:
    """`shape` with the best of some scales, and its error; infinite where it has too many lattice values."""
    if shape.high - shape.low > _LARGEST:
        return shape, 1.0, np.inf
    reach = [stats.hi / shape.high if shape.high > 0 else 0.0, stats.lo / shape.low if shape.low < 0 else 0.0]
    scales = _SHRINKS * (max(reach) or 1.0)
    errors = _errors(stats, shape, scales)
    best = int(np.argmin(errors))
    return shape, float(scales[best]), float(errors[best])


def _errors(stats: ValueStats, shape: _Shape, scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared error of the histogram with each scale."""
    seen = stats.counts > 0
    centers, counts = stats.centers[seen], stats.counts[seen]
    steps = np.clip(np.rint(centers / scales[:, None]), shape.low, shape.high)
    start, end, half = -shape.zero, shape.dense - 1 - shape.zero, shape.ratio // 2
    above = (np.maximum(steps - end, 0) + half) // shape.ratio
    below = (np.maximum(start - steps, 0) + half) // shape.ratio
    snapped = np.clip(steps, start, end) + shape.ratio * (above - below)
    return ((snapped * scales[:, None] - centers) ** 2) @ counts
