"""Allocations on the convex hull of an additive noise model: the least noise + λ·price."""

import numpy as np

from qsearch.search.noise import BITS, Table
from qsearch.search.price import Price, conv_pairs
from qsearch.search.space import Bits, Space

_SWEEPS = 10


class Lagrangian:
    """Minimises `Σ table[j, b_j] + λ·price(b)` by exact steps on one convolution (weight and input together) at a time.

    Where the price couples nothing but the weight and the input of a convolution (BitOPs, bytes) one sweep is exact.
    """

    def __init__(self, space: Space, table: Table, price: Price) -> None:
        self.table, self.price = table, price
        self.values = BITS
        self.pairs = conv_pairs(space)
        paired = {j for pair in self.pairs for j in pair}
        self.singles = [j for j in range(len(space.names)) if j not in paired]
        self.top = np.array([max(site.choices) for site in space.sites], dtype=np.int64)

    def minimise(self, lam: float) -> Bits:
        """The bits of least noise + λ·price, int64 [J]."""
        bits = self.top.copy()
        for _ in range(_SWEEPS):
            before = bits.copy()
            for i, j in self.pairs:
                bits[i], bits[j] = self._best_pair(bits, i, j, lam)
            for j in self.singles:
                slope = self.price.linear[j] + self.price.pairs[j] @ bits
                bits[j] = self.values[int(np.argmin(self.table[j] + lam * slope * self.values))]
            if np.array_equal(bits, before):
                break
        return bits

    def _best_pair(self, bits: Bits, i: int, j: int, lam: float) -> tuple[int, int]:
        coupling = self.price.pairs[i, j]
        slope_i = self.price.linear[i] + self.price.pairs[i] @ bits - coupling * bits[j]
        slope_j = self.price.linear[j] + self.price.pairs[j] @ bits - coupling * bits[i]
        v = self.values
        total = (self.table[i] + lam * slope_i * v)[:, None] + (self.table[j] + lam * slope_j * v)[None, :]
        total = total + lam * coupling * np.outer(v, v)
        row, column = np.unravel_index(int(np.argmin(total)), total.shape)
        return int(v[row]), int(v[column])

    def at_price(self, target: float, steps: int = 14) -> Bits:
        """The bits on the hull whose price comes nearest to `target` from below, by bisection of log λ."""
        low, high = self._lambda_range()
        for _ in range(steps):
            middle = np.sqrt(low * high)
            if self.price(self.minimise(middle)) > target:
                low = middle
            else:
                high = middle
        return self.minimise(high)

    def hull(self, count: int) -> list[Bits]:
        """About `count` different allocations along the whole hull, from the most bits to the fewest."""
        low, high = self._lambda_range()
        dense = [self.minimise(lam) for lam in np.geomspace(low, high, 4 * count)]
        distinct = list({tuple(bits.tolist()): bits for bits in dense}.values())
        prices = np.log(np.maximum([self.price(bits) for bits in distinct], 1e-12))
        wanted = np.linspace(prices.max(), prices.min(), count)
        picked = sorted({int(np.argmin(np.abs(prices - w))) for w in wanted})
        return [distinct[index] for index in picked]

    def _lambda_range(self) -> tuple[float, float]:
        """λ from where noise alone decides to where the price alone decides."""
        finite = np.where(np.isfinite(self.table), self.table, np.nan)
        spread = float(np.nanmax(np.nanmax(finite, axis=1) - np.nanmin(finite, axis=1)))
        spread = spread if spread > 0 else 1.0
        return spread * 1e-7, spread * 1e5


def price_range(space: Space, price: Price) -> tuple[float, float]:
    """The price at the fewest and at the most bits of every site; the lower one is kept positive."""
    low = np.array([min(site.choices) for site in space.sites], dtype=np.int64)
    top = np.array([max(site.choices) for site in space.sites], dtype=np.int64)
    highest = price(top)
    return max(price(low), 1e-3 * highest), highest
