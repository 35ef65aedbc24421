"""The searched forms of sites as an Optuna space and as vectors of codes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import Trial

from qsearch.allocation import Allocation, Site, SiteAllocation
from qsearch.errors import QsearchError
from qsearch.search.forms import (
    FEWEST_BITS,
    FORMS,
    SPANS,
    UNIFORM,
    Form,
    Quantizers,
    can_be_piecewise,
    code_of,
    codes_of,
    form_of,
)

Bits = NDArray[np.int64]
"""Codes of every searched site, int64 [J], in the order of `Space.names`; that of a uniform form is its bits."""

INSIDE = (None, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999)
RATIO = (None, *range(1, 17))
"""Values of the dimensions of a piecewise site; None is what calibration picks."""
REFINED = ("inside", "ratio")
_FIELDS: dict[str, tuple[Any, ...]] = {"span": SPANS[::-1], "inside": INSIDE, "ratio": RATIO}


class Space:
    """The sites of a network that have a choice; every other site keeps what the base allocation gives it.

    A trial's parameters are `<site>` (its bits) and, where the site may be piecewise, `<site>:quantizer` and of a
    piecewise one `<site>:span`, `<site>:inside` and `<site>:ratio`, as in `SiteAllocation`.
    """

    def __init__(self, sites: Sequence[Site], base: Allocation, quantizers: Quantizers = "uniform") -> None:
        """Raises `QsearchError` when `base` does not fit the sites or no site has a choice."""
        base.check(sites)
        self.base, self.quantizers = base, quantizers
        self.sites = tuple(site for site in sites if len(site.choices) > 1)
        self.names = tuple(site.name for site in self.sites)
        if not self.sites:
            raise QsearchError("nothing to search: every site of this network has fixed bits")
        self.choices = tuple(codes_of(site, quantizers) for site in self.sites)
        self.forms = UNIFORM if quantizers == "uniform" else FORMS
        self.codes = np.arange(FEWEST_BITS, FEWEST_BITS + len(self.forms))
        self.piecewise = {s.name for s in self.sites if quantizers != "uniform" and can_be_piecewise(s)}

    def offered(self) -> NDArray[np.bool_]:
        """Which codes a proposal may give each site, [J, number of codes]."""
        return np.array([np.isin(self.codes, choices) for choices in self.choices])

    def distributions(self) -> dict[str, BaseDistribution]:
        """One distribution per parameter; of bits a range where the choices have no gaps, categories otherwise."""
        found: dict[str, BaseDistribution] = {}
        for site in self.sites:
            found[site.name] = _distribution(sorted(site.choices))
            if site.name in self.piecewise:
                found[f"{site.name}:quantizer"] = CategoricalDistribution(("uniform", "piecewise"))
                found |= {f"{site.name}:{key}": CategoricalDistribution(values) for key, values in _FIELDS.items()}
        return found

    def suggest(self, trial: Trial) -> None:
        """Let a trial take its parameters: those of a piecewise quantizer only where it has one."""
        distributions = self.distributions()

        def take(name: str) -> Any:
            distribution = distributions[name]
            if isinstance(distribution, IntDistribution):
                return trial.suggest_int(name, distribution.low, distribution.high)
            assert isinstance(distribution, CategoricalDistribution)
            return trial.suggest_categorical(name, distribution.choices)

        for name in self.names:
            take(name)
            if name in self.piecewise and take(f"{name}:quantizer") == "piecewise":
                for key in _FIELDS:
                    take(f"{name}:{key}")

    def complete(self, params: Mapping[str, Any]) -> bool:
        """Whether a trial has all its parameters."""
        return all(
            name in params
            and (name not in self.piecewise or f"{name}:quantizer" in params)
            and (params.get(f"{name}:quantizer") != "piecewise" or all(f"{name}:{key}" in params for key in _FIELDS))
            for name in self.names
        )

    def allocation(self, source: Mapping[str, Any] | Bits) -> Allocation:
        """The base allocation with the forms of an Optuna trial's parameters, or of a vector."""
        return allocation_of(self.base, source if isinstance(source, Mapping) else self.coded(source))

    def with_code(self, site: str, code: int) -> Allocation:
        """The base allocation with one site in another form."""
        return allocation_of(self.base, self._params_of(site, form_of(code).setting))

    def coded(self, codes: Bits, refined: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The Optuna parameters of a vector; `refined` has those (`<site>:inside`, …) that are not calibration's."""
        found: dict[str, Any] = {}
        for name, code in zip(self.names, codes.tolist(), strict=True):
            found |= self._params_of(name, form_of(code).setting)
        return found | {key: value for key, value in (refined or {}).items() if key in found}

    def params(self, allocation: Allocation) -> dict[str, Any]:
        """The Optuna parameters of an allocation."""
        found: dict[str, Any] = {}
        for name in self.names:
            allocation.bits(name)
            found |= self._params_of(name, allocation.sites[name])
        return found

    def _params_of(self, name: str, setting: SiteAllocation) -> dict[str, Any]:
        if name not in self.piecewise:
            return {name: setting.bits}
        found: dict[str, Any] = {name: setting.bits, f"{name}:quantizer": setting.quantizer}
        if setting.quantizer == "piecewise":
            found |= {f"{name}:{key}": getattr(setting, key) for key in _FIELDS}
        return found

    def vector(self, source: Allocation | Mapping[str, Any]) -> Bits:
        """The codes of an allocation, or of a trial's parameters, as a vector."""
        params = self.params(source) if isinstance(source, Allocation) else source
        return np.array([self._code(name, params) for name in self.names], dtype=np.int64)

    @staticmethod
    def _code(name: str, params: Mapping[str, Any]) -> int:
        if params.get(f"{name}:quantizer", "uniform") == "uniform":
            return int(params[name])
        return code_of(Form(params[name], "piecewise", params[f"{name}:span"]))


def allocation_of(base: Allocation, params: Mapping[str, Any]) -> Allocation:
    """`base` with what a trial's parameters say; a search of bits alone leaves its quantizers as they are."""
    changes: dict[str, dict[str, Any]] = {}
    for key, value in params.items():
        site, _, field = key.partition(":")
        changes.setdefault(site, {})[field or "bits"] = value
    sites = {name: base.sites[name].model_copy(update=values) for name, values in changes.items()}
    return Allocation(sites={**base.sites, **sites})


def _distribution(choices: list[int]) -> BaseDistribution:
    if choices == list(range(choices[0], choices[-1] + 1)):
        return IntDistribution(choices[0], choices[-1])
    return CategoricalDistribution(choices)
