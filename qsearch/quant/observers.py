"""From what was seen of a tensor to the range that its quantizer covers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsearch.allocation import Observer
from qsearch.integer.ops import snap
from qsearch.quant.grid import Grid

BINS = 2048
PERCENTILE = 99.0
"""Share of the values, in percent, that the percentile observer keeps inside (of x, half of the rest on each side)."""


@dataclass(frozen=True)
class ValueStats:
    """What calibration keeps of one activation: its range, and a histogram of `counts` between `centers`."""

    lo: float
    hi: float
    centers: NDArray[np.float64]
    counts: NDArray[np.float64]

    @staticmethod
    def of(sample: NDArray[np.float32], lo: float, hi: float) -> "ValueStats":
        """Statistics from a random sample of the values and the exact range."""
        counts, _ = np.histogram(sample, bins=BINS, range=_edges(lo, hi))
        return ValueStats.from_counts(lo, hi, counts.astype(np.float64))

    @staticmethod
    def from_counts(lo: float, hi: float, counts: NDArray[np.float64]) -> "ValueStats":
        """Statistics from the exact range and the counts of `BINS` equal bins between its ends."""
        edges = np.linspace(*_edges(lo, hi), BINS + 1)
        return ValueStats(lo, hi, (edges[:-1] + edges[1:]) / 2, counts)

    @property
    def root_mean_square(self) -> float:
        """Of the values that were seen."""
        return float(np.sqrt((self.counts * self.centers**2).sum() / max(self.counts.sum(), 1)))


def _edges(lo: float, hi: float) -> tuple[float, float]:
    return lo, hi if hi > lo else lo + 1.0


def minmax(stats: ValueStats, bits: int) -> tuple[float, float]:
    """Everything that was seen; clips nothing."""
    return stats.lo, stats.hi


def percentile(stats: ValueStats, bits: int) -> tuple[float, float]:
    """The middle `PERCENTILE` percent of the values (one-sided for values without negatives)."""
    cumulative = np.cumsum(stats.counts) / max(stats.counts.sum(), 1)
    outside = 1 - PERCENTILE / 100
    if stats.lo >= 0:
        return stats.lo, float(stats.centers[np.searchsorted(cumulative, 1 - outside).clip(0, BINS - 1)])
    low = stats.centers[np.searchsorted(cumulative, outside / 2).clip(0, BINS - 1)]
    high = stats.centers[np.searchsorted(cumulative, 1 - outside / 2).clip(0, BINS - 1)]
    return float(low), float(high)


def mse(stats: ValueStats, bits: int) -> tuple[float, float]:
    """The range whose grid has the least mean squared error on the histogram, by coordinate descent from two starts."""
    found = [_descend(stats, *start, bits) for start in (minmax(stats, bits), percentile(stats, bits))]
    errors = _grid_errors(stats, np.array([lo for lo, _ in found]), np.array([hi for _, hi in found]), bits)
    return found[int(np.argmin(errors))]


def _descend(stats: ValueStats, lo: float, hi: float, bits: int) -> tuple[float, float]:
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    shrinks = np.linspace(1.0, 0.02, 99)
    for _ in range(2 if lo < 0 < hi else 1):
        if hi > 0:
            hi = float(stats.hi * shrinks[np.argmin(_grid_errors(stats, np.full(99, lo), stats.hi * shrinks, bits))])
        if lo < 0:
            lo = float(stats.lo * shrinks[np.argmin(_grid_errors(stats, stats.lo * shrinks, np.full(99, hi), bits))])
    return lo, hi


def _grid_errors(stats: ValueStats, lo: NDArray[np.float64], hi: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Squared error of the histogram on the grid of each range (lo[i], hi[i])."""
    steps = 2**bits - 1
    scale = np.where(hi > lo, (hi - lo) / steps, 1.0)[:, None]  # as `activation_grid` has it
    zero_point = np.rint(-lo[:, None] / scale)
    codes = np.clip(np.rint(stats.centers / scale), -zero_point, steps - zero_point)
    return ((codes * scale - stats.centers) ** 2) @ stats.counts


def squared_errors(stats: ValueStats, grid: Grid, scales: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared error of the histogram on `grid` with each of `scales` for its own, summed over the values seen."""
    seen = stats.counts > 0
    centers, counts = stats.centers[seen], stats.counts[seen]
    codes = np.clip(np.rint(centers / scales[:, None]) + grid.zero_point, grid.lo, grid.hi)
    if grid.pieces is not None:
        codes = snap(torch.from_numpy(codes), torch.tensor(grid.pieces)).numpy()
    return (((codes - grid.zero_point) * scales[:, None] - centers) ** 2) @ counts


OBSERVERS: dict[Observer, Callable[[ValueStats, int], tuple[float, float]]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
}


def weight_scale(weight: Tensor, bits: int, observer: Observer) -> Tensor:
    """float32 scale per output channel [Co] of `weight` [Co, …] by the same three observers, always symmetric."""
    top = 2 ** (bits - 1) - 1
    flat = weight.flatten(1).abs()
    largest = flat.amax(1).clamp_min(1e-12)
    if observer == "minmax":
        return (largest / top).float()
    if observer == "percentile":
        return (flat.quantile(PERCENTILE / 100, dim=1).clamp_min(1e-12) / top).float()
    signed = weight.flatten(1)
    best, error = largest / top, torch.full_like(largest, torch.inf)
    for shrink in torch.linspace(1.0, 0.2, 81):
        scale = (largest * shrink / top).unsqueeze(1)
        trial = ((torch.round(signed / scale).clamp(-top, top) * scale - signed) ** 2).sum(1)
        best = torch.where(trial < error, scale.squeeze(1), best)
        error = torch.minimum(trial, error)
    return best.float()
