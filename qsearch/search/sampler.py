"""The sampler: the least noise for a price, by the additive model refitted on every finished trial.

With 50 sites and 200 trials the model-free samplers gain little on the seeds (TPE) or nothing (NSGA-II); the additive
model predicts most trials to a tenth of a dB, and each refit corrects it where the front is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from qsearch.search.lagrange import Lagrangian, price_range
from qsearch.search.noise import NoiseModel, prior_table, squared_error
from qsearch.search.price import Price, mix
from qsearch.search.sensitivity import Sensitivity
from qsearch.search.space import Bits, Space

_BOLDNESS = 0.3
"""Share of the posterior's spread that a proposal draws: 0 always trusts the mean, 1 is Thompson sampling."""
_GOLDEN = 0.6180339887498949


class FrontSampler(BaseSampler):
    """Proposes allocations along the whole front, each at a price that the trials before it left open.

    A proposal depends only on the seed, the trial's number and the finished trials.
    """

    def __init__(self, space: Space, sensitivity: Sensitivity, prices: Sequence[Price], seed: int) -> None:
        self.space, self.prices, self.seed = space, prices, seed
        self.model = NoiseModel(prior_table(space, sensitivity.added()), sensitivity.base_error)
        for m in sensitivity.measurements:
            probe = space.base.replace({m.site: m.bits} if m.site else {})
            self.model.observe(space.vector(probe), float(squared_error(m.psnr_y_db)))
        self.observed: set[int] = set()

    def seeds(self, count: int) -> list[Bits]:
        """Allocations on the hull of the sensitivities, for each price alone and for all together, spread first."""
        table = self.model.table()
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
        taken = {tuple(self.space.vector(t.params).tolist()) for t in trials if self.space.names[-1] in t.params}
        rng = np.random.default_rng((self.seed, trial.number))
        bits = self._propose(trial.number, rng)
        bits = _unlike(taken, bits, self.space, rng)
        return dict(zip(self.space.names, bits.tolist(), strict=True))

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
        return Lagrangian(self.space, self.model.table(rng, _BOLDNESS), price).at_price(target)

    def _observe(self, trials: Sequence[FrozenTrial]) -> None:
        for trial in trials:
            if trial.state == TrialState.COMPLETE and trial.number not in self.observed:
                error = float(squared_error(trial.user_attrs["metrics"]["psnr_y_db"]))
                self.model.observe(self.space.vector(trial.params), error)
                self.observed.add(trial.number)

    def _mix(self, weights: NDArray[np.float64]) -> Price:
        return mix(self.prices, weights)


def _unlike(taken: set[tuple[int, ...]], bits: Bits, space: Space, rng: np.random.Generator) -> Bits:
    """`bits`, moved by single steps at random sites until no trial has had them."""
    bits = bits.copy()
    for _ in range(1000):
        if tuple(bits.tolist()) not in taken:
            break
        j = int(rng.integers(len(bits)))
        choices = sorted(space.sites[j].choices)
        index = choices.index(int(bits[j])) + int(rng.choice([-1, 1]))
        bits[j] = choices[int(np.clip(index, 0, len(choices) - 1))]
    return bits


def _spread(items: list[Bits]) -> list[Bits]:
    """The items in an order whose every beginning is spread over the whole list (bit-reversed indices)."""
    width = max(len(items) - 1, 1).bit_length()
    order = [int(f"{index:0{width}b}"[::-1], 2) for index in range(1 << width)]
    return [items[index] for index in order if index < len(items)]
