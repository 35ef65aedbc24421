"""Patches that are never apart: every layer runs on the whole image, each patch at its level, with true neighbours."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from qsearch.images import Tile
from qsearch.patches.decisions import Decisions, Policy
from qsearch.patches.patched import Patched
from qsearch.patches.split import Layout, area, level_map

Image = NDArray[np.uint8]


class SeamlessPrograms(Patched):
    """`run` upscales an image whose pixels have levels, uint8 [H, W]; `bitops` gives those of (height, width) by level.

    `run` is that of `LevelNetwork`, or of `storage.run_levels` on the program of `lower_levels`.
    """

    def __init__(
        self,
        run: Callable[[Image, Image], Image],
        bitops: Callable[[int, int], Sequence[int]],
        names: Sequence[str],
        layout: Layout,
        policy: Policy,
        upscale: int,
    ) -> None:
        super().__init__(names, layout, policy, upscale)
        self._run, self._by_level = run, bitops

    def _upscaled(self, image: Image, patches: Sequence[Tile], decisions: Decisions) -> Image:
        return self._run(image, level_map(patches, decisions.levels, *image.shape[:2]))

    def _bitops(self, patches: Sequence[Tile], decisions: Decisions) -> int:
        return seamless_bitops(self._by_level, patches, decisions)

    def _overwork(self, patches: Sequence[Tile], height: int, width: int) -> float:
        return 1.0


def seamless_bitops(bitops: Callable[[int, int], Sequence[int]], patches: Sequence[Tile], decisions: Decisions) -> int:
    """BitOPs of the layers: every pixel once, at its level."""
    side = 16
    per_pixel = [total // side**2 for total in bitops(side, side)]
    return sum(per_pixel[level] * area(patch.output) for patch, level in zip(patches, decisions.levels, strict=True))
