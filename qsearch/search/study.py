"""The search itself: sensitivities, seeds, then trials until the budget is spent; after a kill it continues."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsearch.allocation import MIN_PIECEWISE_BITS, Allocation, Site, uniform
from qsearch.errors import QsearchError
from qsearch.search import history, journal
from qsearch.search.budget import Budget
from qsearch.search.forms import MOST_BITS, Quantizers
from qsearch.search.front import write_front
from qsearch.search.history import History
from qsearch.search.noise import Describe
from qsearch.search.objective import Objective
from qsearch.search.price import Cost, Predict, Price, probe, tabulate
from qsearch.search.progress import SearchProgress
from qsearch.search.sampler import FrontSampler
from qsearch.search.sensitivity import Measure, Sensitivity, measure_sensitivity, plan, read_sensitivity
from qsearch.search.space import Space, allocation_of

_SEEDS = 24
_PIECEWISE_SEEDS = (3, 4, 5, 6)
_SENSITIVITY_SHARE = 0.3
"""Part of a time budget after which no further pass of sensitivities begins."""


def run_search(
    folder: Path | str,
    sites: Sequence[Site],
    measure: Measure,
    cost: Cost,
    objectives: Sequence[Objective],
    budget: Budget,
    *,
    quality: Measure | None = None,
    predict: Mapping[str, Predict] | None = None,
    base: Allocation | None = None,
    quantizers: Quantizers = "uniform",
    describe: Describe | None = None,
    seed: int = 0,
    identity: Mapping[str, str] | None = None,
    conditions: Mapping[str, str] | None = None,
    references: Mapping[str, Mapping[str, float]] | None = None,
    progress: bool | None = None,
) -> History:
    """Search the bits of `sites` and return every finished trial; the same call continues a search that was killed.

    `measure(allocation)` gives the expensive metrics, `psnr_y_db` among them; `cost(allocation)` the exact cheap ones;
    together they give every objective. `quality` is `measure` without timing, for the sensitivities, where latency is
    an objective; `predict` has estimates of such objectives that are cheap to ask for, and proposals follow them.
    `base` (default: the most bits everywhere) fixes the sites without a choice and, with `quantizers` "uniform", the
    quantizers. Otherwise activations may be piecewise, with a span and, refined from what `describe` says of
    calibration, breakpoints and a step ratio. `identity` names what the search must not mix (network, images);
    `conditions` and `references` (metrics of `float`, `bicubic`) are kept for selection and report.

    Raises `QsearchError` when `folder` holds another search, another process searches in it, or a metric is not finite.
    """
    folder = Path(folder)
    base = base or uniform(sites, 8, 8)
    if quantizers != "uniform" and describe is None:
        raise QsearchError(f"a search of {quantizers} quantizers needs to know what calibration says of them")
    space = Space(sites, base, quantizers)
    with journal.only_process(folder):
        marks = history.fingerprint(sites, base, objectives, identity or {}, quantizers)
        history.claim_folder(folder, marks, base, conditions or {}, references or {})
        with SearchProgress(objectives, progress) as shown:
            search = _Search(folder, space, measure, cost, objectives, budget, shown)
            search.prepare(sites, quality or measure, predict or {}, seed, describe)
            search.go_on()
    return history.load_history(folder)


class _Search:
    """One process's part of a search."""

    def __init__(
        self,
        folder: Path,
        space: Space,
        measure: Measure,
        cost: Cost,
        objectives: Sequence[Objective],
        budget: Budget,
        shown: SearchProgress,
    ) -> None:
        self.folder, self.space, self.measure, self.cost = folder, space, measure, cost
        self.objectives, self.budget, self.shown = objectives, budget, shown
        self.study = journal.open_study(folder, objectives)
        self.points = history.finished(self.study, space.base)
        self.known = {self._key(point.allocation): point.metrics for point in self.points}
        self.began = time.monotonic()
        self.spent_before = read_sensitivity(folder / history.SENSITIVITY).seconds + sum(p.seconds for p in self.points)

    def prepare(
        self,
        sites: Sequence[Site],
        quality: Measure,
        predict: Mapping[str, Predict],
        seed: int,
        describe: Describe | None = None,
    ) -> None:
        """Measure the sensitivities, make the sampler, enqueue the uniform allocations and the seeds."""
        sensitivity = self._sensitivity(quality)
        prices = self._prices(predict)
        self.study.sampler = sampler = FrontSampler(self.space, sensitivity, prices, seed, describe)
        journal.recover(self.study, self._finish, self.space.complete)
        if not self.study.user_attrs.get("seeded"):
            for bits in range(8, 1, -1):
                allocation = uniform(sites, bits, bits)
                self._enqueue(self.space.params(allocation), f"uniform w{bits}a{bits}")
                if bits in _PIECEWISE_SEEDS and self.space.piecewise:
                    self._enqueue(self.space.params(self._piecewise(allocation)), f"piecewise w{bits}a{bits}")
            count = _SEEDS if self.budget.trials is None else min(_SEEDS, max(self.budget.trials // 4, 4))
            for vector in sampler.seeds(count):
                self._enqueue(self.space.params(self.space.allocation(vector)), "seed")
            self.study.set_user_attr("seeded", True)

    def go_on(self) -> None:
        """Finish trials until the budget is spent."""
        self.shown.stage("search", self._share())
        self._write_front()
        while self._share() < 1.0:
            trial = self.study.ask()
            self.space.suggest(trial)
            started = time.monotonic()
            metrics = self._metrics(trial.params)
            journal.note(trial, metrics, started)
            self._finish(trial.number, metrics)
            self._write_front()
            self.shown.update(min(self._share(), 1.0), f"{len(self.points)} trials", self.points)

    def _write_front(self) -> None:
        write_front(self.folder / history.FRONT, history.with_polish(self.points, self.folder), self.objectives)

    def _prices(self, predict: Mapping[str, Predict]) -> list[Price]:
        """What proposals are to save: every objective that can be foretold, or any cost where none can."""
        names = [objective.name for objective in self.objectives]
        known = self.cost(self.space.base)
        exact = [name for name in names if name in known]
        foretold = [tabulate(predict[name], self.space) for name in names if name in predict and name not in known]
        if exact or not foretold:
            foretold += probe(self.cost, self.space, exact or list(known))
        return foretold

    def _sensitivity(self, quality: Measure) -> Sensitivity:
        wanted = plan(self.space, self.budget.trials)
        first_pass = len(self.space.names)

        def stop(done: int) -> bool:
            if self.study.user_attrs.get("seeded"):
                return True
            return self._share() > (1.0 if done <= first_pass else _SENSITIVITY_SHARE) and self.budget.trials is None

        def advance(done: int) -> None:
            self.shown.update(done / max(len(wanted), 1), f"{done} of up to {len(wanted)}")

        self.shown.stage("sensitivity")
        path = self.folder / history.SENSITIVITY
        return measure_sensitivity(path, self.space, quality, wanted, stop, advance)

    def _enqueue(self, params: Mapping[str, Any], origin: str) -> None:
        journal.enqueue(self.study, params, origin)

    def _metrics(self, params: Mapping[str, Any]) -> dict[str, float]:
        allocation = self.space.allocation(params)
        if (known := self.known.get(self._key(allocation))) is not None:
            return known
        metrics = {name: float(v) for name, v in {**self.cost(allocation), **self.measure(allocation)}.items()}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise QsearchError(
                    f"{name} of trial {len(self.points)} is {value}: the network or its scales are broken"
                )
        for objective in self.objectives:
            if objective.name not in metrics:
                raise QsearchError(f"objective {objective.name} cannot be measured here")
        return metrics

    def _finish(self, number: int, metrics: Mapping[str, float]) -> None:
        trial = journal.tell(self.study, number, metrics, self.objectives)
        self.points.append(history.point_of(trial, self.space.base))
        self.known[self._key(self.points[-1].allocation)] = dict(metrics)

    def _piecewise(self, allocation: Allocation) -> Allocation:
        """The allocation with piecewise quantizers where they can be, as calibration picks them."""
        names = [name for name in self.space.piecewise if MIN_PIECEWISE_BITS <= allocation.bits(name) < MOST_BITS]
        return allocation_of(allocation, {f"{name}:quantizer": "piecewise" for name in names})

    def _key(self, allocation: Allocation) -> tuple[tuple[str, Any], ...]:
        return tuple(self.space.params(allocation).items())

    def _share(self) -> float:
        return self.budget.share(len(self.points), self.spent_before + time.monotonic() - self.began)
