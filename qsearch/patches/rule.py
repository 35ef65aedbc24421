"""The content-aware rule without references: the more edges a patch has, the more bits it gets (as CABM does)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.files import read_json, write_json
from qsearch.images import Tile
from qsearch.patches.decisions import Decisions
from qsearch.patches.split import Layout, area, gather

MACS_PER_PIXEL = 3 + 5
"""Three for the luma and five for the Laplacian."""
BITS = 8
UNIT = 256
"""A score of 256 is a mean magnitude of one grey level."""


def edge_score(patch: NDArray[np.uint8]) -> int:
    """Mean magnitude of the Laplacian of the luma of uint8 [h, w, 3], in 1/256 grey levels, in integers.

    The luma is (77·R + 150·G + 29·B) >> 8; beyond the border the nearest pixel counts.
    """
    red, green, blue = (patch[..., channel].astype(np.int64) for channel in range(3))
    y = np.pad((77 * red + 150 * green + 29 * blue) >> 8, 1, mode="edge")
    inner = y[1:-1, 1:-1]
    laplacian = 4 * inner - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]
    return int(np.abs(laplacian).sum() * UNIT // inner.size)


@dataclass(frozen=True)
class EdgeRule:
    """A patch has the level of the first threshold that its score reaches, and the last level where it reaches none."""

    thresholds: tuple[int, ...]
    """Descending scores; one fewer than there are levels."""

    def __post_init__(self) -> None:
        if list(self.thresholds) != sorted(self.thresholds, reverse=True):
            raise QsearchError(f"the thresholds of the edge rule must descend, not {list(self.thresholds)}")

    @staticmethod
    def calibrate(images: Sequence[NDArray[np.uint8]], layout: Layout, shares: Sequence[float]) -> "EdgeRule":
        """Thresholds that give the patches of LR images, together, about `shares` at each level but the last.

        Shares are in 0…1 and at most 1 together. Raises `QsearchError` for others, and without images.
        """
        if not images:
            raise QsearchError("the edge rule is calibrated on low-resolution images; there is none")
        if not shares or min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise QsearchError(f"shares of the levels must be 0 to 1, and at most 1 together, not {list(shares)}")
        patches = [patch for image in images for patch in gather(image, layout.split(*image.shape[:2]))]
        scores = sorted((edge_score(patch) for patch in patches), reverse=True)
        thresholds = []
        for taken in np.cumsum(shares):
            count = min(int(np.floor(taken * len(scores) + 0.5)), len(scores))
            thresholds.append(scores[count - 1] if count else scores[0] + 1)
        return EdgeRule(tuple(thresholds))

    def decide(self, image: NDArray[np.uint8], patches: Sequence[Tile]) -> Decisions:
        """Levels alone."""
        return Decisions(tuple(self._level(edge_score(patch)) for patch in gather(image, patches)))

    def bitops(self, patches: Sequence[Tile]) -> int:
        """Eight multiplications of 8 · 8 bits a pixel."""
        return sum(area(patch.input) for patch in patches) * MACS_PER_PIXEL * BITS * BITS

    def save(self, path: Path | str) -> None:
        """Write the thresholds as JSON, atomically."""
        write_json(path, {"edge_thresholds": list(self.thresholds)})

    @staticmethod
    def load(path: Path | str) -> "EdgeRule":
        """Read what `save` wrote; raises `QsearchError` naming the file for anything else."""
        content = read_json(path)
        found = content.get("edge_thresholds") if isinstance(content, dict) else None
        if not isinstance(found, list) or not all(type(value) is int for value in found):
            raise QsearchError(f"{path} holds no edge rule: calibrate one on low-resolution images")
        return EdgeRule(tuple(found))

    def _level(self, score: int) -> int:
        return next((level for level, least in enumerate(self.thresholds) if score >= least), len(self.thresholds))
