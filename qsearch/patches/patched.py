"""What upscales an image patch by patch: decisions first, then everything else, then a report of both."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.images import Box, Tile
from qsearch.patches.decisions import Decisions, Policy
from qsearch.patches.split import Layout


@dataclass(frozen=True)
class PatchReport:
    """What was decided for one patch."""

    box: Box
    """The LR pixels that it gives to the result."""
    level: int
    bits: str
    """The name of its level."""
    cluster: int | None
    reference: int | None
    """The number of the patch that it borrows from; its own for a reference."""


@dataclass(frozen=True)
class PatchResult:
    """An upscaled image and how it came about."""

    image: NDArray[np.uint8]
    patches: tuple[PatchReport, ...]
    bitops: int
    """Of all patches with their overlap, and of the decisions."""
    decision_bitops: int
    overwork: float
    """Pixels computed for each pixel of the image."""


class Patched(ABC):
    """Upscales images whose patches have levels that a policy chooses; `names` say what is shown of each level."""

    def __init__(self, names: Sequence[str], layout: Layout, policy: Policy, upscale: int) -> None:
        self.names, self.layout, self.policy, self.upscale = tuple(names), layout, policy, upscale

    def run(self, image: NDArray[np.uint8]) -> PatchResult:
        """Upscale uint8 [H, W, 3]."""
        height, width = image.shape[:2]
        patches = self.layout.split(height, width)
        decisions = self.policy.decide(image, patches)
        decisions.check(len(patches), len(self.names))
        upscaled, decided = self._upscaled(image, patches, decisions), self.policy.bitops(patches)
        total, work = self._bitops(patches, decisions) + decided, self._overwork(patches, height, width)
        return PatchResult(upscaled, patch_reports(self.names, patches, decisions), total, decided, work)

    @abstractmethod
    def _upscaled(
        self, image: NDArray[np.uint8], patches: Sequence[Tile], decisions: Decisions
    ) -> NDArray[np.uint8]: ...

    @abstractmethod
    def _bitops(self, patches: Sequence[Tile], decisions: Decisions) -> int:
        """Of everything but the decisions."""

    @abstractmethod
    def _overwork(self, patches: Sequence[Tile], height: int, width: int) -> float: ...


def patch_reports(names: Sequence[str], patches: Sequence[Tile], decisions: Decisions) -> tuple[PatchReport, ...]:
    """What was decided, patch by patch, with the names of the levels."""
    return tuple(
        PatchReport(
            patch.output,
            decisions.levels[index],
            names[decisions.levels[index]],
            None if decisions.clusters is None else decisions.clusters[index],
            None if decisions.references is None else decisions.references[index],
        )
        for index, patch in enumerate(patches)
    )
