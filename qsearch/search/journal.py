"""A study in one file: opened by one process at a time, mended after a kill, and the life of its trials."""

import fcntl
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial, Trial, TrialState

from qsearch.errors import QsearchError
from qsearch.files import append_line, drop_torn_tail
from qsearch.search import history
from qsearch.search.objective import Objective

Metrics = Mapping[str, float]


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the system lets it go when the process ends, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise QsearchError(f"cannot create folder {folder}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise QsearchError(
                f"another search is running in {folder}: wait for it or choose another folder"
            ) from error
        yield
    finally:
        os.close(handle)


def open_study(folder: Path, objectives: Sequence[Objective]) -> optuna.Study:
    """The folder's study, made or mended. The caller is the only process that writes it."""
    drop_torn_tail(folder / history.JOURNAL)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=history.open_journal(_Journal(folder / history.JOURNAL), folder),
        study_name=history.STUDY,
        directions=[objective.direction for objective in objectives],
        load_if_exists=True,
    )
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([objective.name for objective in objectives])
    return study


def recover(
    study: optuna.Study, finish: Callable[[int, Metrics], None], complete: Callable[[Mapping[str, Any]], bool]
) -> None:
    """Close what a kill left running: a measured trial is completed, another one fails and is enqueued again.

    `finish` tells a trial its metrics; `complete` says whether parameters are those of a whole trial.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if "metrics" in trial.user_attrs:
            finish(trial.number, trial.user_attrs["metrics"])
            continue
        params = trial.system_attrs.get("fixed_params", trial.params)
        if complete(params):
            enqueue(study, params, trial.user_attrs.get("origin", "search"), besides=trial.number)
        study.tell(trial.number, state=TrialState.FAIL)


def enqueue(study: optuna.Study, params: Mapping[str, Any], origin: str, besides: int | None = None) -> None:
    """Put parameters in the queue unless they wait, run or have finished already."""
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.FAIL or trial.number == besides:
            continue
        if trial.params == params or trial.system_attrs.get("fixed_params") == params:
            return
    study.enqueue_trial(dict(params), user_attrs={"origin": origin})


def note(trial: Trial, metrics: Metrics, started: float) -> None:
    """Write what a trial measured, before it is told: a kill between the two loses nothing."""
    trial.set_user_attr("seconds", round(time.monotonic() - started, 3))
    trial.set_user_attr("metrics", dict(metrics))


def tell(study: optuna.Study, number: int, metrics: Metrics, objectives: Sequence[Objective]) -> FrozenTrial:
    """Complete a trial."""
    return study.tell(number, [metrics[objective.name] for objective in objectives])


class _Journal(JournalFileBackend):
    """Optuna's journal file for a single writer, waiting for the disk only when a trial begins or ends.

    A trial writes a line per site; a kill of the process loses no line that was written, only a power cut could.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        milestone = any(log["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES for log in logs)
        append_line(self.path, lines, flush=milestone)
