"""The hull of the noise model is found, not approximated."""

from itertools import product

import numpy as np
import pytest

from qsearch.allocation import uniform
from qsearch.search.lagrange import Lagrangian
from qsearch.search.noise import prior_table
from qsearch.search.price import probe
from qsearch.search.space import Space
from tests.search.toy import SITES


def test_lagrangian_finds_the_least_of_all_allocations() -> None:
    sites = [
        site.model_copy(update={"choices": (2, 4, 8)})
        for site in SITES
        if site.name.split(".")[0] in ("conv1", "conv2")
    ]
    space = Space(sites, uniform(sites, 8, 8))

    def small_cost(allocation):  # type: ignore[no-untyped-def]
        b = allocation.bits
        bitops = b("conv1.weight") * b("conv1.input") + 3 * b("conv2.weight") * b("conv2.input")
        return {"bitops": bitops}

    price = probe(small_cost, space, ["bitops"])[0]
    table = prior_table(space, {(site.name, 4): 1.0 + k for k, site in enumerate(sites)})

    def total(bits: np.ndarray, lam: float) -> float:
        return float(table[np.arange(len(bits)), bits - 2].sum() + lam * price(bits))

    for lam in (0.01, 0.3, 1.0, 5.0, 100.0):
        least = min(total(np.array(bits), lam) for bits in product((2, 4, 8), repeat=len(sites)))
        assert total(Lagrangian(space, table, price).minimise(lam), lam) == pytest.approx(least)
