"""What is decided for the patches of one image, and the interface of everything that decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.images import Tile


@dataclass(frozen=True)
class Decisions:
    """One entry per patch, in the order of the patches."""

    levels: tuple[int, ...]
    """Which allocation a patch gets; 0 is the highest."""
    clusters: tuple[int, ...] | None = None
    """The cluster of every patch, numbered from 0 by its first patch; None where nothing is clustered."""
    references: tuple[int, ...] | None = None
    """The patch that a query borrows from; a reference names itself. None where nothing is clustered."""

    def check(self, patches: int, levels: int) -> None:
        """Raise `QsearchError` unless there is one entry per patch and every level exists."""
        for entries in (self.levels, self.clusters, self.references):
            if entries is not None and len(entries) != patches:
                raise QsearchError(f"{len(entries)} decisions do not fit {patches} patches")
        if self.levels and not 0 <= min(self.levels) <= max(self.levels) < levels:
            raise QsearchError(f"a patch has level {max(self.levels)}, but there are {levels} allocations")

    def shares(self, levels: int) -> tuple[float, ...]:
        """The share of the patches at every level."""
        return tuple(self.levels.count(level) / max(len(self.levels), 1) for level in range(levels))


class Policy(Protocol):
    """Decides from the LR image alone, deterministically, and says what that costs."""

    def decide(self, image: NDArray[np.uint8], patches: Sequence[Tile]) -> Decisions:
        """The decisions for the patches of a uint8 [H, W, 3] image."""
        ...

    def bitops(self, patches: Sequence[Tile]) -> int:
        """What deciding costs, as Σ MAC · bits · bits."""
        ...


@dataclass(frozen=True)
class Constant:
    """Every patch at one level: the control with the same patches and overlap, and no decision."""

    level: int = 0

    def decide(self, image: NDArray[np.uint8], patches: Sequence[Tile]) -> Decisions:
        """The same level for all."""
        return Decisions((self.level,) * len(patches))

    def bitops(self, patches: Sequence[Tile]) -> int:
        """Nothing."""
        return 0
