"""Sums over a histogram below any value, so that the error of a quantizer costs one look-up per code."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.quant.observers import ValueStats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Counts, sums and squared sums of the bins of a histogram below each bin, float64 [bins + 1] each."""

    first: float
    """The centre of the first bin."""
    width: float
    below: Floats
    """float64 [3, bins + 1]."""

    @staticmethod
    def of(stats: ValueStats) -> "Moments":
        """The moments of a histogram of equal bins."""
        powers = np.stack([stats.counts, stats.counts * stats.centers, stats.counts * stats.centers**2])
        below = np.concatenate([np.zeros((3, 1)), np.cumsum(powers, 1)], 1)
        return Moments(float(stats.centers[0]), float(stats.centers[1] - stats.centers[0]), below)

    @property
    def total(self) -> float:
        """How many values were counted."""
        return float(self.below[0, -1])

    def counts_below(self, limits: Floats) -> Floats:
        """How many values are below each of `limits`."""
        return self.below[0][self._bins(limits)]

    def squared_errors(self, values: Floats, ends: Floats) -> Floats:
        """Squared error, summed over the histogram, of quantizers: ascending `values` [..., K], `ends` [..., K−1].

        What lies between `ends[k − 1]` and `ends[k]` becomes `values[k]`.
        """
        sums = self.below[:, self._bins(ends)]
        shape = (3, *values.shape[:-1], 1)
        everything = np.broadcast_to(self.below[:, -1].reshape(3, *[1] * values.ndim), shape)
        count, first, second = np.diff(np.concatenate([np.zeros(shape), sums, everything], -1), axis=-1)
        error: Floats = (second - 2 * values * first + values**2 * count).sum(-1)
        return error

    def _bins(self, limits: Floats) -> NDArray[np.int64]:
        """How many bins have their centre below each of `limits`."""
        found = np.ceil((limits - self.first) / self.width)
        return np.clip(found, 0, self.below.shape[1] - 1).astype(np.int64)
