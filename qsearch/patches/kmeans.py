"""k-means with k-means++ seeding (Arthur and Vassilvitskii, 2007), deterministic by its seed."""

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError

ROUNDS = 50


def kmeans(points: NDArray[np.float64], classes: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Label [N] and centre [classes, D] of `points` [N, D]; raises `QsearchError` for fewer points than classes.

    An empty class takes the point that is farthest from its centre, so that every class has points while they differ.
    """
    if len(points) < classes or classes < 1:
        raise QsearchError(f"{len(points)} patches cannot be divided into {classes} classes: give more images")
    centres = _seeded(points, classes, np.random.default_rng(seed))
    labels = np.full(len(points), -1)
    for _ in range(ROUNDS):
        distances = _distances(points, centres)
        new = distances.argmin(1)
        if np.array_equal(new, labels):
            break
        labels = new
        nearest = distances.min(1)
        for label in range(classes):
            members = labels == label
            if members.any():
                centres[label] = points[members].mean(0)
            else:
                farthest = int(nearest.argmax())
                centres[label] = points[farthest]
                nearest[farthest] = 0.0
    return _distances(points, centres).argmin(1).astype(np.int64), centres


def _seeded(points: NDArray[np.float64], classes: int, random: np.random.Generator) -> NDArray[np.float64]:
    centres = [points[random.integers(len(points))]]
    nearest = ((points - centres[0]) ** 2).sum(1)
    while len(centres) < classes:
        total = nearest.sum()
        weights = nearest / total if total > 0 else None
        centres.append(points[random.choice(len(points), p=weights)])
        nearest = np.minimum(nearest, ((points - centres[-1]) ** 2).sum(1))
    return np.array(centres)


def _distances(points: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances [N, classes]."""
    cross = points @ centres.T
    return np.maximum((points**2).sum(1)[:, None] - 2 * cross + (centres**2).sum(1)[None], 0.0)
