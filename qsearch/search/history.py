"""What a search leaves in its folder: what was searched, under which conditions, and every finished trial.

search.json         the search's fingerprint, base allocation, conditions and reference figures
sensitivity.jsonl   one line per measured site and bits
optuna.journal      the study: every trial, as optuna and optuna-dashboard read it
polished.json       metrics of trials whose quantizers were fine-tuned since, which take the place of the measured ones
front.json          the non-dominated trials so far
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from qsearch.allocation import Allocation, Site
from qsearch.errors import QsearchError
from qsearch.files import read_json, write_json
from qsearch.search.forms import Quantizers
from qsearch.search.objective import OBJECTIVES, Objective
from qsearch.search.space import allocation_of

SEARCH, JOURNAL, SENSITIVITY, FRONT = "search.json", "optuna.journal", "sensitivity.jsonl", "front.json"
POLISHED = "polished.json"
STUDY = "qsearch"
_VERSION = 1


@dataclass(frozen=True)
class Point:
    """One finished trial."""

    number: int
    metrics: dict[str, float]
    allocation: Allocation
    origin: str
    """`uniform w4a4`, `seed` (from the sensitivities) or `search`."""
    seconds: float
    polished: bool = False
    """Whether its quantizers were fine-tuned after the trial; then `metrics` are those of the fine-tuned network."""


class Finished(Protocol):
    """What every finished trial tells, whatever it is that was searched."""

    @property
    def number(self) -> int:
        """Of the trial."""

    @property
    def metrics(self) -> dict[str, float]:
        """By the names of objectives."""

    @property
    def origin(self) -> str:
        """Where the trial came from, in words."""


@dataclass(frozen=True)
class History:
    """A search as its folder tells it."""

    folder: Path
    objectives: tuple[Objective, ...]
    conditions: dict[str, str]
    """What the figures were measured on, in words: model, images, protocol, device, threads, …"""
    references: dict[str, dict[str, float]]
    """Metrics of what the trials are compared with: `float`, `bicubic`."""
    points: list[Point] = field(repr=False)


def fingerprint(
    sites: Sequence[Site],
    base: Allocation,
    objectives: Sequence[Objective],
    identity: Mapping[str, str],
    quantizers: Quantizers = "uniform",
) -> dict[str, str]:
    """What two searches must share to continue one another; `identity` names the network, the images and the like."""
    return {
        "objectives": ",".join(objective.name for objective in objectives),
        "sites": _digest([site.model_dump() for site in sites]),
        "base allocation": _digest(_plain(base)),
        **({} if quantizers == "uniform" else {"quantizers": quantizers}),
        **identity,
    }


def claim_folder(
    folder: Path,
    marks: Mapping[str, str],
    base: Allocation,
    conditions: Mapping[str, str],
    references: Mapping[str, Mapping[str, float]],
) -> None:
    """Make `folder` the folder of this search, or check that it already is.

    Raises `QsearchError` when it holds another search. Files that are not of a search are left alone.
    """
    if (folder / SEARCH).exists():
        known = _read_search(folder)["fingerprint"]
        for key in {**known, **marks}:
            if known.get(key) != marks.get(key):
                raise QsearchError(
                    f"{folder} holds another search: its {key} is {known.get(key)}, not {marks.get(key)}; "
                    "choose another folder"
                )
        return
    for name in (JOURNAL, SENSITIVITY, FRONT):
        if (folder / name).exists():
            raise QsearchError(f"{folder} holds {name} but no {SEARCH}: choose another folder")
    value = {
        "version": _VERSION,
        "fingerprint": dict(marks),
        "base": base.model_dump(exclude_defaults=True),
        "conditions": dict(conditions),
        "references": {name: dict(metrics) for name, metrics in references.items()},
    }
    write_json(folder / SEARCH, value)


def load_history(folder: Path | str) -> History:
    """Read what a search left in `folder`, finished or not; raises `QsearchError` when there is none."""
    folder = Path(folder)
    value = _read_search(folder)
    base = Allocation.model_validate(value["base"])
    objectives = tuple(OBJECTIVES[name] for name in value["fingerprint"]["objectives"].split(","))
    points = []
    if (folder / JOURNAL).exists():
        storage = open_journal(JournalFileBackend(str(folder / JOURNAL)), folder)
        if any(study.study_name == STUDY for study in storage.get_all_studies()):
            study = optuna.load_study(study_name=STUDY, storage=storage)
            points = with_polish(finished(study, base), folder)
    return History(folder, objectives, value["conditions"], value["references"], points)


def open_journal(backend: JournalFileBackend, folder: Path) -> JournalStorage:
    """The storage behind a journal; raises `QsearchError` when the file is damaged."""
    try:
        return JournalStorage(backend)
    except (ValueError, KeyError, AssertionError) as error:
        raise QsearchError(f"{folder / JOURNAL} is damaged ({error}): search again in a new folder") from error


def finished(study: optuna.Study, base: Allocation) -> list[Point]:
    """The completed trials of a study, in order."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [point_of(trial, base) for trial in trials]


def point_of(trial: FrozenTrial, base: Allocation) -> Point:
    """A completed trial as a point."""
    notes, allocation = trial.user_attrs, allocation_of(base, trial.params)
    return Point(trial.number, notes["metrics"], allocation, notes.get("origin", "search"), notes["seconds"])


def with_polish(points: Sequence[Point], folder: Path) -> list[Point]:
    """The points with what fine-tuning made of them; number, origin and allocation stay."""
    found = read_json(folder / POLISHED) if (folder / POLISHED).is_file() else {}
    return [
        replace(point, metrics=found[str(point.number)], polished=True) if str(point.number) in found else point
        for point in points
    ]


def polish(folder: Path, number: int, metrics: Mapping[str, float]) -> None:
    """Keep the metrics of the fine-tuned point `number`; from now on they are the point's."""
    found = read_json(folder / POLISHED) if (folder / POLISHED).is_file() else {}
    write_json(folder / POLISHED, {**found, str(number): dict(metrics)})


def _read_search(folder: Path) -> dict[str, Any]:
    if not (folder / SEARCH).is_file():
        raise QsearchError(f"{folder} holds no search: it has no {SEARCH}")
    value = read_json(folder / SEARCH)
    if not isinstance(value, dict) or value.get("version") != _VERSION:
        raise QsearchError(f"{folder / SEARCH} was written by another version of qsearch: search again in a new folder")
    return value


def _plain(base: Allocation) -> dict[str, Any]:
    """An allocation as its fingerprint sees it: what a quantizer leaves to calibration is not mentioned."""
    left = ("inside", "ratio", "span")
    sites = {name: site.model_dump().items() for name, site in base.sites.items()}
    return {"sites": {name: {k: v for k, v in s if v is not None or k not in left} for name, s in sites.items()}}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
