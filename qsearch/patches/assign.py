"""Clusters and references from class probabilities, by argmax alone (RefQSR, Fig. 4, in two readings)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError

Reading = Literal["A", "B"]
SHARE_PARTS = 1_000_000
"""Shares count in millionths, so that every machine rounds them alike."""
Probabilities = NDArray[np.int64]
"""Integers in 0…65536 that stand for 0…1, [patches, classes]; float64 in 0…1 serves as well."""


@dataclass(frozen=True)
class Clusters:
    """Which patches are alike, and which of them represent the others."""

    cluster: NDArray[np.int64]
    """[N]; numbered from 0 in the order of each cluster's first patch."""
    reference: NDArray[np.int64]
    """[N]; the patch that stands for patch i, which is i itself for a reference."""

    @property
    def references(self) -> NDArray[np.int64]:
        """The reference patches, ascending."""
        return np.flatnonzero(self.reference == np.arange(len(self.reference)))

    @property
    def isolated(self) -> NDArray[np.int64]:
        """The references that are alone in their cluster: many bits, and nobody borrows from them."""
        sizes = np.bincount(self.cluster, minlength=1)
        return self.references[sizes[self.cluster[self.references]] == 1]


def assign(probabilities: NDArray, reading: Reading = "A", share: float | None = None) -> Clusters:
    """Clusters of patches, and references among them, from [patches, classes]; ties go to the lower index.

    Reading A: a patch belongs to its likeliest class, and the patch that is likeliest of that class is the reference.
    Reading B: a patch belongs to the patch j of greatest affinity Σ_c P[i,c]·P[j,c], and every such j is a reference.
    They agree where the probabilities are confident.

    With `share`, each cluster has that share of its patches as references, rounded half up and at least one, in the
    order of their probability (A only); a query borrows from the reference of greatest affinity.
    """
    if probabilities.ndim != 2 or not probabilities.size:
        raise QsearchError(f"probabilities must be [patches, classes], not {list(probabilities.shape)}")
    if share is not None and not 0 < share <= 1:
        raise QsearchError(f"the share of references must be above 0 and at most 1, not {share}")
    if reading == "A":
        labels, reference = _by_class(probabilities, share)
    elif reading == "B" and share is None:
        labels, reference = _by_affinity(probabilities)
    elif reading == "B":
        raise QsearchError("a share of references needs reading A")
    else:
        raise QsearchError(f"clusters are read as A or B, not {reading!r}")
    return Clusters(_numbered(labels), reference)


def parts_of(share: float) -> int:
    """A share in millionths."""
    return round(share * SHARE_PARTS)


def with_random_references(clusters: Clusters, seed: int) -> Clusters:
    """The control: the same references and queries, but every query borrows from any reference of the image."""
    random = np.random.default_rng(seed)
    drawn = random.choice(clusters.references, len(clusters.reference))
    own = clusters.reference == np.arange(len(clusters.reference))
    return Clusters(clusters.cluster, np.where(own, clusters.reference, drawn))


def _by_class(probabilities: NDArray, share: float | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    labels = probabilities.argmax(1)
    reference = np.arange(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = 1 if share is None else max(1, (2 * parts_of(share) * len(members) + SHARE_PARTS) // (2 * SHARE_PARTS))
        # A stable sort keeps the lower index first among equals.
        order = members[np.argsort(-probabilities[members, label], kind="stable")]
        chosen, queries = np.sort(order[:count]), order[count:]
        affinity = probabilities[queries] @ probabilities[chosen].T
        reference[queries] = chosen[affinity.argmax(1)]
    return labels.astype(np.int64), reference


def _by_affinity(probabilities: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    nearest = (probabilities @ probabilities.T).argmax(1).astype(np.int64)
    # A patch that stands for others is a reference, even where its own nearest is another.
    chosen = np.unique(nearest)
    nearest[chosen] = chosen
    return nearest, nearest


def _numbered(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    _, first, index = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[index]
