"""Piecewise linear quantizers on the int8 lattice: a dense middle, and coarser steps for the outliers on either side.

Fang et al., "Post-training piecewise linear quantization", ECCV 2020; here the outer step is an integer multiple of the
dense one and zero is a value, so that the integer network runs it unchanged (see `qsearch.integer.ops.snap`).
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.quant.grid import Codes, Grid
from qsearch.quant.moments import Moments
from qsearch.quant.observers import ValueStats

LARGEST_SPAN = 255
_RATIOS = (2, 3, 4, 5, 6, 8)
_OUTER_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625)
_SHRINKS = np.geomspace(1.0, 0.1, 40)
_NEARBY = np.geomspace(0.8, 1.25, 7)
_FINE = np.geomspace(0.95, 1.05, 21)
_SHARES = np.geomspace(3.0, 1e-3, 400)
"""Scales, in units of the one that just clips nothing, among which a share of values inside is looked for."""
_KEPT = 8
"""How many of the starts are improved."""
_SWEEPS = 8

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_STEPS = np.array([(0, 0, 0, 0)] + [tuple(n * s for s in move) for n in (-2, -1, 1, 2) for move in (
    (0, 0, 0, 1), (1, 0, -1, 0), (0, 1, -1, 0), (-1, 1, 0, 0), (-1, 1, 0, 1))])  # fmt: skip
"""Changes of (below, dense, above, zero) that are tried: zero moves, or a code goes from one part to another."""


def piecewise_grid(
    stats: ValueStats, bits: int, inside: float | None = None, ratio: int | None = None, span: int | None = None
) -> Grid:
    """The piecewise quantizer of at most 2^bits values with the least mean squared error on the histogram of `stats`.

    `inside` fixes the share of the values that lie within the breakpoints, as nearly as a scale can; `ratio` the outer
    step in dense ones; `span` is the most that the largest lattice value may exceed the smallest by. Starts from
    several step ratios and shares of outer codes, then improves scale, zero and the sides by turns. A side without
    outliers gives its codes to the other. `bits` is 3 or more. Raises `QsearchError` where `ratio` does not fit `span`.
    """
    span = span or LARGEST_SPAN
    largest = span - (2**bits - 1) + 1
    if ratio is not None and ratio > largest:
        raise QsearchError(
            f"a step ratio of {ratio} does not fit {bits} bits within a span of {span}: use up to {largest}"
        )
    search = _Search(Moments.of(stats), stats, bits, inside, span)
    ratios = (ratio,) if ratio is not None else tuple(r for r in _RATIOS if r <= largest) or (1,)
    return search.best(search.starts(ratios))


def inside_share(stats: ValueStats, grid: Grid) -> float:
    """The share of the values of `stats` that lie within the breakpoints of a piecewise grid."""
    low, high, _ = grid.pieces or (grid.lo, grid.hi, 1)
    moments = Moments.of(stats)
    ends = np.array([(low - grid.zero_point) * grid.scale, (high - grid.zero_point) * grid.scale])
    below = moments.counts_below(ends + np.array([-1e-9, 1e-9]) * grid.scale)
    return float((below[1] - below[0]) / max(moments.total, 1.0))


@dataclass(frozen=True)
class _Search:
    """Descent from many starts at once. A candidate is a row (below, dense, above, zero, ratio), int64 [C, 5]."""

    moments: Moments
    stats: ValueStats
    bits: int
    inside: float | None
    span: int

    def starts(self, ratios: tuple[int, ...]) -> Integers:
        """The candidates from which the descent begins; as few outer codes as the span demands."""
        count = 2**self.bits
        lo, hi = min(self.stats.lo, 0.0), max(self.stats.hi, 0.0)
        negative = -lo / ((hi - lo) or 1.0)
        rows = []
        for ratio, share in product(ratios, _OUTER_SHARES):
            most = (self.span - count + 1) // (ratio - 1) if ratio > 1 else count
            outer = min(max(1, round(count * share)), most)
            below, dense = round(outer * negative), count - outer
            rows.append((below, dense, outer - below, min(round((dense - 1) * negative), dense - 1), ratio))
        found = np.unique(np.array(rows, dtype=np.int64), axis=0)
        return found[self._fits(found)]

    def best(self, codes: Integers) -> Grid:
        """The grid of least error within reach of the candidates."""
        reach = self._reach(codes)
        scales = self._scales(codes, reach[:, None] * _SHRINKS)
        codes, scale, error = self._least(codes, scales)
        kept = np.argsort(error, kind="stable")[:_KEPT]
        codes, scale, error = codes[kept], scale[kept], error[kept]
        for _ in range(_SWEEPS):
            moved = (codes[:, None, :] + np.pad(_STEPS, ((0, 0), (0, 1)))).reshape(-1, 5)
            nearby = self._scales(moved, np.repeat(scale, len(_STEPS))[:, None] * _NEARBY)
            moved, moved_scale, moved_error = self._least(moved, nearby, self._fits(moved))
            rows = moved_error.reshape(len(codes), -1).argmin(1) + np.arange(len(codes)) * len(_STEPS)
            better = moved_error[rows] < error * (1 - 1e-9)
            if not better.any():
                break
            codes = np.where(better[:, None], moved[rows], codes)
            scale, error = np.where(better, moved_scale[rows], scale), np.where(better, moved_error[rows], error)
        at = int(np.argmin(error))
        if self.inside is None:
            _, scale, _ = self._least(codes[at : at + 1], scale[at] * _FINE[None])
            at_scale = float(scale[0])
        else:
            at_scale = float(scale[at])
        below, dense, above, zero, ratio = (int(value) for value in codes[at])
        return Codes(below, dense, above, zero).grid(float(np.float32(at_scale)), ratio)

    def _fits(self, codes: Integers) -> NDArray[np.bool_]:
        """Which candidates are grids of this span with an exact zero, without codes on a side that has no values."""
        below, dense, above, zero, ratio = codes.T
        fits = (below >= 0) & (above >= 0) & (below + above >= 1) & (zero >= 0) & (zero < dense) & (dense >= 2)
        fits &= dense - 1 + (below + above) * ratio <= self.span
        if self.stats.lo >= 0:
            fits &= (below == 0) & (zero == 0)
        elif self.stats.hi <= 0:
            fits &= (above == 0) & (zero == dense - 1)
        return fits

    def _reach(self, codes: Integers) -> Floats:
        """The least scale of each candidate that clips nothing, [C]; 1 where all values are 0."""
        below, dense, above, zero, ratio = codes.T
        high, low = dense - 1 - zero + above * ratio, zero + below * ratio
        up = np.where(high > 0, max(self.stats.hi, 0.0) / np.maximum(high, 1), 0.0)
        down = np.where(low > 0, max(-self.stats.lo, 0.0) / np.maximum(low, 1), 0.0)
        reach = np.maximum(up, down)
        return np.where(reach > 0, reach, 1.0)

    def _scales(self, codes: Integers, free: Floats) -> Floats:
        """The scales to try, [C, S]: `free` ones, or the one [C, 1] that leaves the wanted share inside."""
        if self.inside is None:
            return free
        usable = np.maximum(codes, 0)  # of candidates that do not fit any scale will do
        scales = self._reach(usable)[:, None] * _SHARES
        low, high = -usable[:, 3, None] * scales, (usable[:, 1, None] - 1 - usable[:, 3, None]) * scales
        slack = 1e-9 * scales
        share = (self.moments.counts_below(high + slack) - self.moments.counts_below(low - slack)) / max(
            self.moments.total, 1.0
        )
        # Of the scales that come equally near the largest, which clips least.
        nearest = np.abs(share - self.inside).argmin(1)
        return np.take_along_axis(scales, nearest[:, None], 1)

    def _least(
        self, codes: Integers, scales: Floats, fits: NDArray[np.bool_] | None = None
    ) -> tuple[Integers, Floats, Floats]:
        """Each candidate with the best of its scales [C, S] and its error; infinite where it does not fit."""
        error = np.full(scales.shape, np.inf)
        fits = np.ones(len(codes), dtype=np.bool_) if fits is None else fits
        values, ends = _lattice(codes[fits])
        error[fits] = self.moments.squared_errors(values[:, None, :] * scales[fits, :, None],
                                                  ends[:, None, :] * scales[fits, :, None])  # fmt: skip
        at = error.argmin(1)
        rows = np.arange(len(codes))
        return codes, scales[rows, at], error[rows, at]


def _lattice(codes: Integers) -> tuple[Floats, Floats]:
    """The values [C, K] of candidates in units of the dense step, and where one code ends and the next begins [C, K−1].

    The ends are those of `snap`: half way, and for an even ratio half a step nearer the middle.
    """
    below, dense, above, zero, ratio = (column[:, None] for column in codes.T)
    k = np.arange(int((below + dense + above)[0, 0]) if len(codes) else 0)
    inner = np.clip(k, below, below + dense - 1) - below - zero
    values = inner + ratio * (np.minimum(k - below, 0) + np.maximum(k - below - dense + 1, 0))
    outward = ratio - ratio // 2 - 0.5
    left, right = values[:, :-1], values[:, 1:]
    k = k[:-1]
    ends = np.where(k < below, right - outward, np.where(k >= below + dense - 1, left + outward, left + 0.5))
    return values.astype(np.float64), ends
