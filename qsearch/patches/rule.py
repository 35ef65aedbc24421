"""The content-aware rule without references: the more edges a patch has, the more bits it gets (as CABM does).

PSNR is a logarithm for each image: an error that quantization adds costs least where the image is full of edges, which
cost more than all quantization, and most in an image that has few. The relative rule counts edges with that in mind.
"""

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
SHIFT = 20
"""Of relative scores: they keep 64 bits for any image."""


def edge_score(patch: NDArray[np.uint8]) -> int:
    """Mean magnitude of the Laplacian of the luma of uint8 [h, w, 3], in 1/256 grey levels, in integers.

    The luma is (77·R + 150·G + 29·B) >> 8; beyond the border the nearest pixel counts.
    """
    red, green, blue = (patch[..., channel].astype(np.int64) for channel in range(3))
    y = np.pad((77 * red + 150 * green + 29 * blue) >> 8, 1, mode="edge")
    inner = y[1:-1, 1:-1]
    laplacian = 4 * inner - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]
    return int(np.abs(laplacian).sum() * UNIT // inner.size)


def relative_scores(scores: Sequence[int]) -> list[int]:
    """The edge scores s of the patches of one image as 2^40·s / m³ for their mean m, in integers rounded down.

    The noise of quantization grows slowly with the edges of a patch and the error of an image fast with those of the
    image, so that the patches that gain most have edges in an image of few.
    """
    mean = max(sum(scores) // max(len(scores), 1), 1)
    return [(((score << SHIFT) // mean) << SHIFT) // (mean * mean) for score in scores]


@dataclass(frozen=True)
class EdgeRule:
    """A patch has the level of the first threshold that its score reaches, and the last level where it reaches none."""

    thresholds: tuple[int, ...]
    """Descending scores; one fewer than there are levels."""
    relative: bool = False
    """Whether scores are those of `relative_scores`."""

    def __post_init__(self) -> None:
        if list(self.thresholds) != sorted(self.thresholds, reverse=True):
            raise QsearchError(f"the thresholds of the edge rule must descend, not {list(self.thresholds)}")

    @staticmethod
    def calibrate(
        images: Sequence[NDArray[np.uint8]], layout: Layout, shares: Sequence[float], relative: bool = False
    ) -> "EdgeRule":
        """Thresholds that give the patches of LR images, together, about `shares` at each level but the last.

        Shares are in 0…1 and at most 1 together. Raises `QsearchError` for others, and without images.
        """
        if not images:
            raise QsearchError("the edge rule is calibrated on low-resolution images; there is none")
        if not shares or min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise QsearchError(f"shares of the levels must be 0 to 1, and at most 1 together, not {list(shares)}")
        scores = [score for image in images for score in _scores(image, layout.split(*image.shape[:2]), relative)]
        scores.sort(reverse=True)
        thresholds = []
        for taken in np.cumsum(shares):
            count = min(int(np.floor(taken * len(scores) + 0.5)), len(scores))
            thresholds.append(scores[count - 1] if count else scores[0] + 1)
        return EdgeRule(tuple(thresholds), relative)

    def decide(self, image: NDArray[np.uint8], patches: Sequence[Tile]) -> Decisions:
        """Levels alone."""
        return Decisions(tuple(self._level(score) for score in _scores(image, patches, self.relative)))

    def bitops(self, patches: Sequence[Tile]) -> int:
        """Eight multiplications of 8 · 8 bits a pixel."""
        return sum(area(patch.input) for patch in patches) * MACS_PER_PIXEL * BITS * BITS

    def save(self, path: Path | str) -> None:
        """Write the thresholds as JSON, atomically."""
        write_json(path, {"edge_thresholds": list(self.thresholds), "relative": self.relative})

    @staticmethod
    def load(path: Path | str) -> "EdgeRule":
        """Read what `save` wrote; raises `QsearchError` naming the file for anything else."""
        content = read_json(path)
        found = content.get("edge_thresholds") if isinstance(content, dict) else None
        if not isinstance(found, list) or not all(type(value) is int for value in found):
            raise QsearchError(f"{path} holds no edge rule: calibrate one on low-resolution images")
        return EdgeRule(tuple(found), content.get("relative") is True)

    def _level(self, score: int) -> int:
        return next((level for level, least in enumerate(self.thresholds) if score >= least), len(self.thresholds))


def _scores(image: NDArray[np.uint8], patches: Sequence[Tile], relative: bool) -> list[int]:
    found = [edge_score(patch) for patch in gather(image, patches)]
    return relative_scores(found) if relative else found
