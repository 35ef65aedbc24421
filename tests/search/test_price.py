"""A probed price is the cost itself."""

import numpy as np
import pytest

from qsearch.allocation import uniform
from qsearch.search.price import probe
from qsearch.search.space import Space
from tests.search.toy import SITES, cost

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
