"""The sampler of a search of patches: random settings first, then neighbours of the best settings so far."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from qsearch.patches.setting import CLUSTERS, WHOLE, Params, PatchSpace
from qsearch.search.front import non_dominated
from qsearch.search.objective import Objective, losses

RANDOM = 12
"""Proposals before the first neighbour."""
_GOLDEN = 0.6180339887498949
_CROSSED, _MOVED, _FAR = 0.3, 0.2, 0.25
"""Chances that a proposal mixes two settings, that a parameter moves, and that it moves anywhere, not by one step."""
_ATTEMPTS = 500


class NeighbourSampler(BaseSampler):
    """Proposes neighbours of settings on the front of all patches, evenly along it.

    Whole images, which may beat every setting, guide no proposal (they would leave the samplers of Optuna without a
    good trial). A proposal depends only on the seed and the finished trials, so that a search continues exactly.
    """

    def __init__(self, space: PatchSpace, objectives: Sequence[Objective], seed: int) -> None:
        self.space, self.objectives, self.seed = space, objectives, seed
        self.choices = space.choices()
        self.ordered = {"patch", "overlap", "classes", "share", "high", "low"}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Every parameter of a setting."""
        return self.space.distributions()

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A setting that no finished trial has had, while there are such."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        tried = [other for other in trials if WHOLE not in other.params]
        taken = {_key(other.params) for other in tried}
        random = np.random.default_rng((self.seed, len(trials)))
        proposed = sum(other.user_attrs.get("origin", "search") == "search" for other in tried)  # not the seeds
        best = self._front(tried) if proposed >= RANDOM else []
        params = self._anywhere(random)
        for _ in range(_ATTEMPTS):
            params = self._near(best, len(trials), random) if best else self._anywhere(random)
            if self.space.valid(params) and _key(params) not in taken:
                return params
        while not self.space.valid(params):
            params = self._anywhere(random)
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never needed: every parameter is relative, and those of whole images are given."""
        return optuna.samplers.RandomSampler(self.seed).sample_independent(study, trial, param_name, param_distribution)

    def _front(self, trials: Sequence[FrozenTrial]) -> list[Params]:
        """The parameters of the best trials along the front, in an order that is not that of the trials."""
        ordered = sorted(trials, key=lambda trial: str(_key(trial.params)))
        values = np.array([losses(self.objectives, trial.user_attrs["metrics"]) for trial in ordered])
        return [dict(ordered[index].params) for index in non_dominated(values)]

    def _anywhere(self, random: np.random.Generator) -> Params:
        return self._settled({name: values[int(random.integers(len(values)))] for name, values in self.choices.items()})

    def _near(self, best: Sequence[Params], count: int, random: np.random.Generator) -> Params:
        # By the golden ratio any run of trials covers the whole front evenly.
        parent = best[int((count * _GOLDEN) % 1.0 * len(best))]
        params = {name: parent.get(name, values[0]) for name, values in self.choices.items()}
        if random.random() < _CROSSED:
            other = best[int(random.integers(len(best)))]
            params = {name: other.get(name, own) if random.random() < 0.5 else own for name, own in params.items()}
        names = list(self.choices)
        sure = names[random.integers(len(names))]
        for name in names:
            if name == sure or random.random() < _MOVED:
                params[name] = self._moved(name, params[name], random)
        return self._settled(params)

    def _moved(self, name: str, value: Any, random: np.random.Generator) -> Any:
        values = self.choices[name]
        if name not in self.ordered or random.random() < _FAR:
            return values[int(random.integers(len(values)))]
        index = values.index(value) + int(random.choice([-1, 1]))
        return values[int(np.clip(index, 0, len(values) - 1))]

    @staticmethod
    def _settled(params: Params) -> Params:
        """Without the classes where nothing is clustered."""
        return {name: v for name, v in params.items() if name != "classes" or params["policy"] == CLUSTERS}


def _key(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(params.items()))
