"""The policy of references and queries: texture classes make clusters, each cluster's reference gets the high bits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.images import Tile
from qsearch.network import CalibratedNetwork
from qsearch.patches.assign import Clusters, Reading, assign, with_random_references
from qsearch.patches.classifier import Classifier
from qsearch.patches.clustblock import STEPS, train_clustblock, training_patches
from qsearch.patches.decisions import Decisions
from qsearch.patches.split import Layout, gather

REFERENCE, QUERY = 0, 1
"""The levels of references and queries."""


@dataclass(frozen=True)
class Clustering:
    """References at level 0 and queries at level 1, from the frozen classifier."""

    classifier: Classifier
    reading: Reading = "A"
    share: float | None = None
    """Share of references in each cluster; None is one for each cluster."""

    @staticmethod
    def train(
        network: CalibratedNetwork,
        images: Sequence[NDArray[np.uint8]],
        layout: Layout,
        classes: int = 16,
        seed: int = 0,
        steps: int = STEPS,
    ) -> "Clustering":
        """Train the classifier on patches of LR images (uint8 [H, W, 3]) without labels, and freeze it."""
        patches = training_patches(images, layout, seed)
        block, _ = train_clustblock(network, patches, classes, seed, steps)
        return Clustering(Classifier.freeze(block, patches))

    def clusters(self, image: NDArray[np.uint8], patches: Sequence[Tile]) -> Clusters:
        """Clusters and references of the patches."""
        return assign(self.classifier.probabilities(gather(image, patches)), self.reading, self.share)

    def decide(self, image: NDArray[np.uint8], patches: Sequence[Tile]) -> Decisions:
        """Clusters, references, and the level that follows."""
        return as_decisions(self.clusters(image, patches))

    def bitops(self, patches: Sequence[Tile]) -> int:
        """The classifier on every patch, at 8 · 8 bits."""
        box = patches[0].input
        return len(patches) * self.classifier.bitops(box.bottom - box.top, box.right - box.left)


@dataclass(frozen=True)
class RandomReferences:
    """The control: the clustering's references and queries, but every query borrows from any reference."""

    clustering: Clustering
    seed: int = 0

    def decide(self, image: NDArray[np.uint8], patches: Sequence[Tile]) -> Decisions:
        """As the clustering decides, with other references."""
        return as_decisions(with_random_references(self.clustering.clusters(image, patches), self.seed))

    def bitops(self, patches: Sequence[Tile]) -> int:
        """As the clustering costs."""
        return self.clustering.bitops(patches)


def as_decisions(clusters: Clusters) -> Decisions:
    """References high, queries low."""
    chosen = set(clusters.references.tolist())
    levels = tuple(REFERENCE if index in chosen else QUERY for index in range(len(clusters.cluster)))
    return Decisions(levels, tuple(clusters.cluster.tolist()), tuple(clusters.reference.tolist()))
