"""Choosing one trial under a person's limits, over one run or several."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from qsearch.errors import QsearchError
from qsearch.search.history import History, Point, load_history
from qsearch.search.objective import OBJECTIVES, human

_NOISE = {"latency_ms": 0.05}
"""Relative differences that are no difference: a measured latency decides only beyond them."""


@dataclass(frozen=True)
class Selection:
    """The chosen trial and the search it belongs to."""

    history: History
    point: Point


def select(
    folders: Sequence[Path | str],
    *,
    max_latency_ms: float | None = None,
    max_latency_modelled_ms: float | None = None,
    min_psnr_db: float | None = None,
    max_drop_db: float | None = None,
    max_weight_bytes: float | None = None,
    max_bitops: float | None = None,
    max_peak_bytes: float | None = None,
) -> Selection:
    """The trial that fits the limits best.

    With a bound on quality (`min_psnr_db`, or `max_drop_db` below the best float network of the runs) it is the fastest
    trial that keeps it (of trials within 5 % of the fastest, the cheapest by the next cost), or where latency was not
    measured the cheapest by the first cost among the objectives; with bounds on costs alone it is the trial of the
    highest PSNR. Every finished trial counts, not only the front.

    Raises `QsearchError` without any limit, for runs that cannot be compared, for a limit on what a run did not
    measure, and when nothing meets the limits: then it names the nearest.
    """
    return select_from(
        [load_history(folder) for folder in folders],
        max_latency_ms=max_latency_ms,
        max_latency_modelled_ms=max_latency_modelled_ms,
        min_psnr_db=min_psnr_db,
        max_drop_db=max_drop_db,
        max_weight_bytes=max_weight_bytes,
        max_bitops=max_bitops,
        max_peak_bytes=max_peak_bytes,
    )


def select_from(
    runs: Sequence[History],
    *,
    max_latency_ms: float | None = None,
    max_latency_modelled_ms: float | None = None,
    min_psnr_db: float | None = None,
    max_drop_db: float | None = None,
    max_weight_bytes: float | None = None,
    max_bitops: float | None = None,
    max_peak_bytes: float | None = None,
) -> Selection:
    """`select` among histories that are already read."""
    check_comparable(runs)
    floor = _quality_floor(runs, min_psnr_db, max_drop_db)
    ceilings = {
        "latency_ms": max_latency_ms,
        "latency_modelled_ms": max_latency_modelled_ms,
        "weight_bytes": max_weight_bytes,
        "bitops": max_bitops,
        "peak_bytes": max_peak_bytes,
    }
    limits = {name: limit for name, limit in ceilings.items() if limit is not None}
    if floor is None and not limits:
        raise QsearchError("nothing to select by: give a limit, such as --max-latency-ms 20 or --max-drop-db 0.1")
    candidates = [Selection(run, point) for run in runs for point in run.points]
    for choice in candidates:
        for name in limits.keys() - choice.point.metrics.keys():
            raise QsearchError(
                f"{choice.history.folder} did not measure {name}: search again with it among the objectives"
            )
    if floor is not None:
        limits["psnr_y_db"] = floor
    fitting = [choice for choice in candidates if not _excess(choice.point, limits)]
    if not fitting:
        raise QsearchError(_nearest(candidates, limits))
    if floor is None:
        return max(fitting, key=lambda choice: choice.point.metrics["psnr_y_db"])
    return _cheapest(fitting, _costs_to_spare(runs))


def _cheapest(fitting: Sequence[Selection], costs: Sequence[str]) -> Selection:
    """The least by the first cost; where that is only measured, the next cost decides among those within its noise."""
    first, *others = costs
    if first in _NOISE and others:
        least = min(choice.point.metrics[first] for choice in fitting)
        fitting = [choice for choice in fitting if choice.point.metrics[first] <= least * (1 + _NOISE[first])]
        first = others[0]
    return min(fitting, key=lambda choice: (choice.point.metrics[first], -choice.point.metrics["psnr_y_db"]))


def check_comparable(runs: Sequence[History]) -> None:
    """Raise `QsearchError` unless every run has trials that were measured alike."""
    if not runs:
        raise QsearchError("nothing to select from: name at least one run folder")
    for run in runs:
        if not run.points:
            raise QsearchError(f"{run.folder} has no finished trial yet: continue its search first")
        for key in ("images", "protocol", "device", "latency model"):
            if run.conditions.get(key) != runs[0].conditions.get(key):
                raise QsearchError(
                    f"{runs[0].folder} and {run.folder} cannot be compared: their {key} differ "
                    f"({runs[0].conditions.get(key)} and {run.conditions.get(key)})"
                )


def _quality_floor(runs: Sequence[History], min_psnr_db: float | None, max_drop_db: float | None) -> float | None:
    """The least PSNR allowed, in dB, from both ways of saying it."""
    floors = [] if min_psnr_db is None else [min_psnr_db]
    if max_drop_db is not None:
        known = [run.references["float"]["psnr_y_db"] for run in runs if "float" in run.references]
        if not known:
            raise QsearchError(f"{runs[0].folder} has no PSNR of the float network: give --min-psnr-db instead")
        floors.append(max(known) - max_drop_db)
    return max(floors, default=None)


def _costs_to_spare(runs: Sequence[History]) -> list[str]:
    """Latency where every trial has it, then the costs that are objectives of every run."""
    shared = set.intersection(*({objective.name for objective in run.objectives} for run in runs))
    if all("latency_ms" in point.metrics for run in runs for point in run.points):
        shared.add("latency_ms")
    found = [name for name, objective in OBJECTIVES.items() if name in shared and objective.direction == "minimize"]
    if not found:
        raise QsearchError("the runs have no cost in common: select from runs with the same objectives")
    return found


def _excess(point: Point, limits: dict[str, float]) -> float:
    """How far a trial is beyond its limits, relative for costs, in units of 1 dB for PSNR; 0 when it meets them."""
    total = 0.0
    for name, limit in limits.items():
        beyond = OBJECTIVES[name].loss(point.metrics[name]) - OBJECTIVES[name].loss(limit)
        total += max(beyond, 0.0) / (1.0 if name == "psnr_y_db" else max(abs(limit), 1e-12))
    return total


def _nearest(candidates: Sequence[Selection], limits: dict[str, float]) -> str:
    nearest = min(candidates, key=lambda choice: _excess(choice.point, limits))
    asked = ", ".join(
        f"{name} {'at least' if OBJECTIVES[name].direction == 'maximize' else 'at most'} {human(name, limit)}"
        for name, limit in limits.items()
    )
    names = ["psnr_y_db", *(name for name in limits if name != "psnr_y_db")]
    found = ", ".join(f"{name} {human(name, nearest.point.metrics[name])}" for name in names)
    return (
        f"none of {len(candidates)} trials has {asked}: "
        f"the nearest is trial {nearest.point.number} of {nearest.history.folder} with {found}"
    )
