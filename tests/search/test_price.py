"""A probed price is the cost itself."""

import numpy as np
import pytest

from qsearch.allocation import Allocation, uniform
from qsearch.search.price import probe, tabulate
from qsearch.search.space import Space
from tests.search.toy import CONVS, SITES, cost

SPACE = Space(SITES, uniform(SITES, 8, 8))


def random_bits(rng: np.random.Generator, space: Space = SPACE) -> np.ndarray:
    return np.array([rng.choice(site.choices) for site in space.sites])


def test_probed_prices_are_exact() -> None:
    rng = np.random.default_rng(0)
    names = ("bitops", "weight_bytes")
    at_base = cost(SPACE.base)
    for _ in range(20):
        bits = random_bits(rng)
        exact = cost(SPACE.allocation(bits))
        for name, price in zip(names, probe(cost, SPACE, names), strict=True):
            assert price(bits) == pytest.approx(exact[name] / at_base[name])


def test_a_tabulated_price_is_the_prediction_itself() -> None:
    def steps(allocation: Allocation) -> float:
        """A time that falls in steps, as that of kernels does."""
        most = [max(allocation.bits(f"{conv}.weight"), allocation.bits(f"{conv}.input")) for conv in CONVS]
        return sum(1.0 if bits > 6 else 0.5 if bits > 4 else 0.4 for bits in most)

    price, rng = tabulate(steps, SPACE), np.random.default_rng(1)
    at_base = steps(SPACE.base)
    for _ in range(20):
        bits = random_bits(rng)
        assert price(bits) == pytest.approx(steps(SPACE.allocation(bits)) / at_base)
