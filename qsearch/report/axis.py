"""A number line: where values lie on it and which ticks it shows."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` on pixels from `start` to `end`, evenly or by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value, rounded to a tenth."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """About `count` round values within the axis."""
        if self.log:
            return self._log_ticks(count)
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 12) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _log_ticks(self, count: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for mantissas in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [
                m * 10.0**d for d in decades for m in mantissas if self.low <= m * 10.0**d <= self.high * (1 + 1e-9)
            ]
            if len(found) <= count + 1:
                break
        return found


def axis_over(values: Iterable[float], start: float, end: float, margin: float = 0.04, log: bool = False) -> Axis:
    """An axis that holds all `values` with a margin; logarithmic on request where all values are positive."""
    found = list(values)
    low, high = min(found), max(found)
    if log and low > 0:
        spread = max(math.log(high / low), 0.05)
        return Axis(low * math.exp(-margin * spread), high * math.exp(margin * spread), start, end, True)
    spread = (high - low) or abs(high) * 0.1 or 1.0
    return Axis(low - margin * spread, high + margin * spread, start, end)


def _round_step(step: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(step))
    return next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= step * 0.999)
