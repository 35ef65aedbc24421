"""The sampler: the least noise for a price, by the additive model refitted on every finished trial.

With 50 sites and 200 trials the model-free samplers gain little on the seeds (TPE) or nothing (NSGA-II); the additive
model predicts most trials to a tenth of a dB, and each refit corrects it where the front is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from qsearch.search.forms import FEWEST_BITS, code_of
from qsearch.search.lagrange import Lagrangian, price_range
from qsearch.search.noise import Describe, NoiseModel, Table, prior_table, squared_error
from qsearch.search.price import Price, mix
from qsearch.search.refine import Refiner, front_trials
from qsearch.search.sensitivity import Sensitivity
from qsearch.search.space import Bits, Space

_BOLDNESS = 0.3
"""Share of the posterior's spread that a proposal draws: 0 always trusts the mean, 1 is Thompson sampling."""
_GOLDEN = 0.6180339887498949


class FrontSampler(BaseSampler):
    """Proposes allocations along the whole front, each at a price that the trials before it left open.

    A proposal depends only on the seed, the trial's number and the finished trials.
    """

    def __init__(
        self,
        space: Space,
        sensitivity: Sensitivity,
        prices: Sequence[Price],
        seed: int,
        describe: Describe | None = None,
    ) -> None:
        self.space, self.prices, self.seed = space, prices, seed
        self.model = NoiseModel(prior_table(space, sensitivity.added(), describe), sensitivity.base_error)
        self.offered = space.offered() & ~_pointless(space, prices)
        self.refiner = Refiner(space, describe) if describe is not None and space.piecewise else None
        for m in sensitivity.measurements:
            probe = space.with_code(m.site, m.code) if m.site else space.base
            self.model.observe(space.vector(probe), float(squared_error(m.psnr_y_db)))
        self.observed: set[int] = set()

    def seeds(self, count: int) -> list[Bits]:
        """Allocations on the hull of the sensitivities, for each price alone and for all together, spread first."""
        table = self._offered(self.model.table())
        blends = [np.eye(len(self.prices))[k] for k in range(len(self.prices))]
        if len(self.prices) > 1:
            blends.append(np.full(len(self.prices), 1 / len(self.prices)))
        found = [_spread(Lagrangian(self.space, table, self._mix(w)).hull(-(-count // len(blends)))) for w in blends]
        longest = max(map(len, found))
        return [hull[index] for index in range(longest) for hull in found if index < len(hull)][:count]

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every searched site, whatever the trials before did."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The parameters of the next trial, different from every trial there is."""
        trials = study.get_trials(deepcopy=False)
        self._observe(trials)
        taken = {_key(t.params) for t in trials if self.space.complete(t.params)}
        rng = np.random.default_rng((self.seed, trial.number))
        if (refined := self._refine(study, trial.number, rng)) is not None and _key(refined) not in taken:
            return refined
        codes = self._propose(trial.number, rng)
        inherited = self.refiner.inherited(codes, front_trials(study)) if self.refiner else {}
        return _unlike(taken, codes, inherited, self.space, rng)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never needed: every parameter is relative."""
        return optuna.samplers.RandomSampler(self.seed).sample_independent(study, trial, param_name, param_distribution)

    def _propose(self, number: int, rng: np.random.Generator) -> Bits:
        price = self._mix(rng.dirichlet(np.ones(len(self.prices))))
        low, high = price_range(self.space, price)
        # By the golden ratio any run of trials covers the whole front evenly; by turns in log price and in price,
        # because at the dear end allocations differ by thousandths of a dB.
        share = (number * _GOLDEN) % 1.0
        target = low * (high / low) ** share if number % 2 else low + (high - low) * share
        return Lagrangian(self.space, self._offered(self.model.table(rng, _BOLDNESS)), price).at_price(target)

    def _refine(self, study: Study, number: int, rng: np.random.Generator) -> dict[str, Any] | None:
        """The parameters of a refined trial, where it is the turn of one and there is something to refine."""
        if self.refiner is None or not self.refiner.turn(number):
            return None
        table = np.where(np.isfinite(table := self.model.table()), table, 0.0)
        found = self.refiner.child(front_trials(study), table, (number * _GOLDEN) % 1.0, rng)
        return None if found is None else self.space.coded(*found)

    def _offered(self, table: Table) -> Table:
        """The noise of what may be proposed; +inf for other forms, such as uniform ones that are only measured."""
        return np.where(self.offered, table, np.inf)

    def _observe(self, trials: Sequence[FrozenTrial]) -> None:
        for trial in trials:
            if trial.state == TrialState.COMPLETE and trial.number not in self.observed:
                error = float(squared_error(trial.user_attrs["metrics"]["psnr_y_db"]))
                self.model.observe(self.space.vector(trial.params), error)
                self.observed.add(trial.number)

    def _mix(self, weights: NDArray[np.float64]) -> Price:
        return mix(self.prices, weights)


def _pointless(space: Space, prices: Sequence[Price]) -> NDArray[np.bool_]:
    """Forms with a limit on their span that no price rewards: the free span of as many bits is better, [J, codes]."""
    found = np.zeros((len(space.sites), len(space.codes)), dtype=np.bool_)
    limited = [form for form in space.forms if form.span is not None]
    for j in range(len(space.sites)):
        columns = [
            *(table.T for price in prices for (_, other), table in price.pairs.items() if other == j),
            *(price.singles[j][:, None] for price in prices if j in price.singles),
        ]
        for form in limited:
            at, free = code_of(form) - FEWEST_BITS, code_of(replace(form, span=None)) - FEWEST_BITS
            found[j, at] = all(np.array_equal(column[at], column[free]) for column in columns)
    return found


def _key(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(params.items()))


def _unlike(
    taken: set[tuple[tuple[str, Any], ...]],
    codes: Bits,
    refined: Mapping[str, Any],
    space: Space,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """The parameters of `codes`, moved by single steps at random sites until no trial has had them."""
    codes = codes.copy()
    params = space.coded(codes, refined)
    for _ in range(1000):
        if _key(params) not in taken:
            break
        j = int(rng.integers(len(codes)))
        choices = space.choices[j]
        index = choices.index(int(codes[j])) + int(rng.choice([-1, 1]))
        codes[j] = choices[int(np.clip(index, 0, len(choices) - 1))]
        refined = {key: value for key, value in refined.items() if not key.startswith(f"{space.names[j]}:")}
        params = space.coded(codes, refined)
    return params


def _spread(items: list[Bits]) -> list[Bits]:
    """The items in an order whose every beginning is spread over the whole list (bit-reversed indices)."""
    width = max(len(items) - 1, 1).bit_length()
    order = [int(f"{index:0{width}b}"[::-1], 2) for index in range(1 << width)]
    return [items[index] for index in order if index < len(items)]
