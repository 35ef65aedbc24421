"""Breakpoints and step ratios within the forms that trials chose: hill climbing from what calibration picks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from qsearch.allocation import SiteAllocation
from qsearch.search.forms import MOST_BITS, form_of
from qsearch.search.front import non_dominated
from qsearch.search.noise import Describe, Table
from qsearch.search.space import INSIDE, RATIO, REFINED, Bits, Space

EVERY = 6
"""Of so many proposals one refines a trial of the front."""


class Refiner:
    """Proposes trials of the front with the breakpoints or the step ratio of one or two piecewise sites moved.

    A child has its parent's forms and so its price; where it is better it takes the parent's place on the front and is
    a parent itself.
    """

    def __init__(self, space: Space, describe: Describe) -> None:
        self.space, self.describe = space, describe

    def turn(self, number: int) -> bool:
        """Whether the trial of this number is to refine."""
        return number % EVERY == EVERY - 1

    def inherited(self, codes: Bits, parents: Sequence[FrozenTrial]) -> dict[str, Any]:
        """What the trial of the front with the most forms in common has refined, for those sites."""
        if not parents:
            return {}
        vectors = np.array([self.space.vector(trial.params) for trial in parents])
        nearest = int((vectors == codes).sum(1).argmax())
        return self._refined(parents[nearest], codes)

    def child(
        self, parents: Sequence[FrozenTrial], table: Table, share: float, rng: np.random.Generator
    ) -> tuple[Bits, dict[str, Any]] | None:
        """Codes and refined parameters near those of a parent, `share` of the way along the front; None without one."""
        able = [trial for trial in parents if (self.space.vector(trial.params) > MOST_BITS).any()]
        if not able:
            return None
        parent = able[min(int(share * len(able)), len(able) - 1)]
        codes = self.space.vector(parent.params)
        refined = self._refined(parent, codes)
        where = np.flatnonzero(codes > MOST_BITS)
        # Where the noise is, there is something to gain.
        noise = np.maximum(table[where, codes[where] - self.space.codes[0]], 1e-12)
        count = min(len(where), int(rng.integers(1, 3)))
        for index in rng.choice(where, count, replace=False, p=noise / noise.sum()):
            self._move(self.space.names[index], int(codes[index]), refined, rng)
        return codes, refined

    def _refined(self, parent: FrozenTrial, codes: Bits) -> dict[str, Any]:
        """The parent's departures from calibration, at sites that have these codes."""
        same = self.space.vector(parent.params) == codes
        names = [name for name, is_same in zip(self.space.names, same, strict=True) if is_same]
        keys = [f"{name}:{field}" for name in names for field in REFINED]
        return {key: parent.params[key] for key in keys if parent.params.get(key) is not None}

    def _move(self, site: str, code: int, refined: dict[str, Any], rng: np.random.Generator) -> None:
        """Move breakpoints or ratio of one site by one or two steps of their ladder, up or down."""
        setting = form_of(code).setting
        _, inside, ratio = self.describe(site, _refined_setting(setting, site, refined))
        step = int(rng.choice([-2, -1, 1, 2]))
        if rng.random() < 0.5:
            ladder = np.array(INSIDE[1:], dtype=np.float64)
            here = int(np.abs(ladder - inside).argmin())
            refined[f"{site}:inside"] = float(ladder[np.clip(here + step, 0, len(ladder) - 1)])
        else:
            most = min((setting.span or 255) - (2**setting.bits - 1) + 1, max(r for r in RATIO if r is not None))
            refined[f"{site}:ratio"] = int(np.clip(ratio + step, 1, most))


def _refined_setting(setting: SiteAllocation, site: str, refined: Mapping[str, Any]) -> SiteAllocation:
    return setting.model_copy(update={field: refined.get(f"{site}:{field}") for field in REFINED})


def front_trials(study: Study) -> list[FrozenTrial]:
    """The finished trials that no other beats, the cheapest by the last objective first."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not trials:
        return []
    signs = np.array([-1.0 if d == StudyDirection.MAXIMIZE else 1.0 for d in study.directions])
    values = np.array([trial.values for trial in trials]) * signs
    return [trials[index] for index in non_dominated(values)]
