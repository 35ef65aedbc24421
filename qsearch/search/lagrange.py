"""Allocations on the convex hull of an additive noise model: the least noise + λ·price."""

import numpy as np

from qsearch.search.noise import Table
from qsearch.search.price import Price
from qsearch.search.space import Bits, Space


class Lagrangian:
    """Minimises `Σ table[j, b_j] + λ·price(b)`: exactly, because the price couples only weight and input of a conv."""

    def __init__(self, space: Space, table: Table, price: Price) -> None:
        self.table, self.price = table, price
        self.codes = space.codes[::-1]
        self.top = np.array([max(site.choices) for site in space.sites], dtype=np.int64)

    def minimise(self, lam: float) -> Bits:
        """The codes of least noise + λ·price, int64 [J]; of equals the highest."""
        bits = self.top.copy()
        for (i, j), prices in self.price.pairs.items():
            total = (self.table[i][:, None] + self.table[j] + lam * prices)[::-1, ::-1]
            row, column = np.unravel_index(int(np.argmin(total)), total.shape)
            bits[i], bits[j] = self.codes[row], self.codes[column]
        for j, row_prices in self.price.singles.items():
            bits[j] = self.codes[int(np.argmin((self.table[j] + lam * row_prices)[::-1]))]
        return bits

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
