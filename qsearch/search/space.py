"""The searched bits as an Optuna space and as vectors."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from qsearch.allocation import Allocation, Site
from qsearch.errors import QsearchError

Bits = NDArray[np.int64]
"""Bits of every searched site, int64 [J], in the order of `Space.names`."""


class Space:
    """The sites of a network that have a choice; every other site keeps what the base allocation gives it."""

    def __init__(self, sites: Sequence[Site], base: Allocation) -> None:
        """Raises `QsearchError` when `base` does not fit the sites or no site has a choice."""
        base.check(sites)
        self.base = base
        self.sites = tuple(site for site in sites if len(site.choices) > 1)
        self.names = tuple(site.name for site in self.sites)
        if not self.sites:
            raise QsearchError("nothing to search: every site of this network has fixed bits")

    def distributions(self) -> dict[str, BaseDistribution]:
        """One distribution per searched site: a range where the choices have no gaps, categories otherwise."""
        return {site.name: _distribution(sorted(site.choices)) for site in self.sites}

    def allocation(self, bits: Mapping[str, int] | Bits) -> Allocation:
        """The base allocation with these bits, given by name (an Optuna trial's params) or as a vector."""
        chosen = bits if isinstance(bits, Mapping) else dict(zip(self.names, bits.tolist(), strict=True))
        return self.base.replace(chosen)

    def params(self, allocation: Allocation) -> dict[str, int]:
        """The Optuna parameters of an allocation."""
        return {name: allocation.bits(name) for name in self.names}

    def vector(self, source: Allocation | Mapping[str, int]) -> Bits:
        """The bits of an allocation, or of a trial's parameters, as a vector."""
        params = self.params(source) if isinstance(source, Allocation) else source
        return np.array([params[name] for name in self.names], dtype=np.int64)


def _distribution(choices: list[int]) -> BaseDistribution:
    if choices == list(range(choices[0], choices[-1] + 1)):
        return IntDistribution(choices[0], choices[-1])
    return CategoricalDistribution(choices)
