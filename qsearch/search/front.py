"""The non-dominated trials, how much they cover, and `front.json`, which is always on disk."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from qsearch.files import write_atomic
from qsearch.search.history import Finished, Point
from qsearch.search.objective import Objective, losses

Losses = NDArray[np.float64]
"""Objective values with the sign that makes smaller better, float64 [N, K]."""
Trial = TypeVar("Trial", bound=Finished)


def non_dominated(values: Losses) -> NDArray[np.int64]:
    """Indices of the rows that no other row beats, sorted by the last column; of equal rows the first.

    A row beats another that it equals or betters everywhere and betters somewhere.
    """
    order = np.lexsort((np.arange(len(values)), *values.T))
    kept = np.empty(0, dtype=np.int64)
    for index in order:
        if not np.any(np.all(values[kept] <= values[index], axis=1)):
            kept = np.append(kept, index)
    return kept


def hypervolume(values: Losses, reference: Losses) -> float:
    """Volume that the rows dominate below `reference` [K]: the usual measure of how good a whole front is."""
    inside = values[np.all(values < reference, axis=1)]
    if len(inside) == 0:
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    front = inside[non_dominated(inside)]
    edges = np.append(front[:, -1], reference[-1])
    return sum(
        (edges[k + 1] - edges[k]) * hypervolume(front[: k + 1, :-1], reference[:-1])
        for k in range(len(front))
        if edges[k + 1] > edges[k]
    )


def front(points: Sequence[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """The non-dominated points, from the cheapest to the dearest by the last objective."""
    if not points:
        return []
    values = np.array([losses(objectives, point.metrics) for point in points])
    return [points[index] for index in non_dominated(values)]


def covered(points: Sequence[Point], objectives: Sequence[Objective]) -> float | None:
    """Hypervolume of the trials in units of the box between the best and the worst uniform allocation.

    It passes 1 where trials lie beyond the box; None until two uniform allocations are measured.
    """
    uniform = np.array([losses(objectives, point.metrics) for point in points if point.origin.startswith("uniform")])
    if len(uniform) < 2:
        return None
    worst, best = uniform.max(axis=0), uniform.min(axis=0)
    span = np.where(worst > best, worst - best, 1.0)
    values = np.array([losses(objectives, point.metrics) for point in points])
    return hypervolume((values - best) / span, np.where(worst > best, 1.0, 1e-9))


def write_front(path: Path, points: Sequence[Point], objectives: Sequence[Objective]) -> None:
    """Write the front so far, atomically: every point with its number, its metrics and its allocation."""
    head = {
        "objectives": [objective.name for objective in objectives],
        "trials": len(points),
        "hypervolume": covered(points, objectives),
    }
    rows = (
        {
            "number": point.number,
            "origin": point.origin,
            **({"polished": True} if point.polished else {}),
            "metrics": point.metrics,
            "allocation": point.allocation.model_dump(exclude_defaults=True),
        }
        for point in front(points, objectives)
    )
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_atomic(path, f'{json.dumps(head)[:-1]}, "points": [\n{lines}\n]}}\n')
