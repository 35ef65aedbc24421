"""The search over settings of patches, and what it leaves: every trial, and what the best ones save.

optuna.journal   the study: every trial, as optuna and optuna-dashboard read it
front.json       whole images at every allocation, and the best settings of patches with what each saves
classifiers/     the frozen classifiers that trials have trained

Refinement with references (RefER) is no dimension: it is trained for the winners, which are ordinary configurations.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from qsearch.errors import QsearchError
from qsearch.files import write_atomic
from qsearch.patches.curve import CurvePoint, bitops_at
from qsearch.patches.sampler import NeighbourSampler
from qsearch.patches.setting import WHOLE, Params, PatchSpace, Setting, Whole, setting_of
from qsearch.search import history, journal
from qsearch.search.budget import Budget
from qsearch.search.front import front
from qsearch.search.objective import Objective
from qsearch.search.progress import SearchProgress

CLASSIFIERS = "classifiers"
ORIGIN = "whole images at "
Measure = Callable[[Setting | Whole], dict[str, float]]


@dataclass(frozen=True)
class PatchPoint:
    """One finished trial."""

    number: int
    metrics: dict[str, float]
    params: Params
    origin: str
    """`whole images at 8`, `seed` or `search`."""
    seconds: float

    @property
    def tried(self) -> Setting | Whole:
        """What was measured."""
        return Whole(str(self.params[WHOLE])) if WHOLE in self.params else setting_of(self.params)


def run_patch_search(
    folder: Path,
    space: PatchSpace,
    measure: Measure,
    objectives: Sequence[Objective],
    budget: Budget,
    seed: int = 0,
    progress: bool | None = None,
) -> list[PatchPoint]:
    """Search `space` and return every finished trial; the same call continues a search that was killed.

    Whole images at every allocation come first, then neighbouring allocations in large patches, then proposals.
    `measure` gives at least the metrics of the objectives. That the space is the folder's is for the caller to see to.
    Raises `QsearchError` where another process searches in `folder`, or a metric is not finite.
    """
    with journal.only_process(folder), SearchProgress(objectives, progress) as shown:
        study = journal.open_study(folder, objectives)
        study.sampler = NeighbourSampler(space, objectives, seed)
        search = _Search(folder, space, measure, objectives, study)
        search.prepare()
        spent, began = sum(point.seconds for point in search.points), time.monotonic()
        shown.stage("search", budget.share(len(search.points), spent))
        while (share := budget.share(len(search.points), spent + time.monotonic() - began)) < 1.0:
            shown.update(share, f"{len(search.points)} trials", search.points)
            search.step()
        return search.points


class _Search:
    """One process's part of a search."""

    def __init__(
        self,
        folder: Path,
        space: PatchSpace,
        measure: Measure,
        objectives: Sequence[Objective],
        study: optuna.Study,
    ) -> None:
        self.folder, self.space, self.measure, self.objectives, self.study = folder, space, measure, objectives, study
        self.points = _finished(study)
        self.known = {point.tried: point.metrics for point in self.points}

    def prepare(self) -> None:
        """Mend what a kill left, and enqueue what every search begins with."""
        journal.recover(self.study, self._finish, self.space.complete)
        if not self.study.user_attrs.get("seeded"):
            for level in self.space.levels:
                journal.enqueue(self.study, {WHOLE: level}, f"{ORIGIN}{level}")
            for params in self.space.seeds():
                journal.enqueue(self.study, params, "seed")
            self.study.set_user_attr("seeded", True)
        self._write()

    def step(self) -> None:
        """Finish one trial."""
        trial = self.study.ask()
        whole = str(trial.user_attrs.get("origin", "")).startswith(ORIGIN)
        tried, started = self.space.suggest(trial, whole), time.monotonic()
        metrics = self.known.get(tried) or self.measure(tried)
        for objective in self.objectives:
            if not math.isfinite(metrics[objective.name]):
                raise QsearchError(f"{objective.name} of {tried} is {metrics[objective.name]}: the network is broken")
        journal.note(trial, metrics, started)
        self._finish(trial.number, metrics)
        self._write()

    def _finish(self, number: int, metrics: Mapping[str, float]) -> None:
        point = _point(journal.tell(self.study, number, metrics, self.objectives))
        self.points.append(point)
        self.known[point.tried] = point.metrics

    def _write(self) -> None:
        whole, best = split_front(self.points, self.objectives)
        head = {"objectives": [objective.name for objective in self.objectives], "trials": len(self.points)}
        rows = {
            "whole_images": [row(point) for point in whole],
            "patches": [{**row(point), "saved": savings(point, whole, self.objectives)} for point in best],
        }
        parts = [f'"{name}": [\n' + ",\n".join(map(json.dumps, found)) + "\n]" for name, found in rows.items()]
        write_atomic(self.folder / history.FRONT, f"{json.dumps(head)[:-1]}, {', '.join(parts)}}}\n")


def load_points(folder: Path) -> list[PatchPoint]:
    """Every finished trial of a search, running or not; raises `QsearchError` where there is none."""
    if not (folder / history.JOURNAL).is_file():
        raise QsearchError(f"{folder} holds no search of patches: it has no {history.JOURNAL}")
    storage = history.open_journal(history.JournalFileBackend(str(folder / history.JOURNAL)), folder)
    if not any(study.study_name == history.STUDY for study in storage.get_all_studies()):
        return []
    return _finished(optuna.load_study(study_name=history.STUDY, storage=storage))


def split_front(
    points: Sequence[PatchPoint], objectives: Sequence[Objective]
) -> tuple[list[PatchPoint], list[PatchPoint]]:
    """Whole images at every allocation, and the settings of patches that no other setting of patches beats.

    The latter from the cheapest to the dearest; whether they beat whole images is for `savings` to say.
    """
    whole = [point for point in points if WHOLE in point.params]
    return whole, front([point for point in points if WHOLE not in point.params], objectives)


def savings(point: PatchPoint, whole: Sequence[PatchPoint], objectives: Sequence[Objective]) -> dict[str, float | None]:
    """Share of each cost that a point saves against whole images of its PSNR, which are interpolated; negative if more.

    None where whole images do not reach the PSNR.
    """
    found: dict[str, float | None] = {}
    for cost in (objective.name for objective in objectives if objective.direction == "minimize"):
        curve = [CurvePoint(p.origin, p.metrics["psnr_y_db"], p.metrics[cost], 1.0) for p in whole]
        needed = bitops_at(curve, point.metrics["psnr_y_db"])
        found[cost] = None if needed is None else 1 - point.metrics[cost] / needed
    return found


def row(point: PatchPoint) -> dict[str, Any]:
    """A point as files and the command line tell it."""
    return {"point": point.number, "origin": point.origin, **point.params, **point.metrics}


def _finished(study: optuna.Study) -> list[PatchPoint]:
    return [_point(trial) for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]


def _point(trial: FrozenTrial) -> PatchPoint:
    notes = trial.user_attrs
    return PatchPoint(
        trial.number, notes["metrics"], dict(trial.params), notes.get("origin", "search"), notes["seconds"]
    )
