"""PSNR against BitOPs for many policies at once: every patch is upscaled once at every level, then only merged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qsearch import cost
from qsearch.compile.host import HostNetwork
from qsearch.compile.host_levels import LevelNetwork
from qsearch.errors import QsearchError
from qsearch.images import Pair, Tile
from qsearch.integer.levels import lower_levels
from qsearch.metrics import Protocol, luma, psnr
from qsearch.network import CalibratedNetwork
from qsearch.patches.decisions import Decisions, Policy
from qsearch.patches.errors import squared_error
from qsearch.patches.execute import Level, patch_bitops
from qsearch.patches.split import Layout, gather, level_map, merge


@dataclass(frozen=True)
class CurvePoint:
    """One setting on a set of image pairs."""

    name: str
    psnr_y_db: float
    """Mean over the images; Y, `upscale` pixels cropped."""
    bitops: float
    """Mean over the images, with overlap and decisions."""
    high_share: float
    """Share of the patches at the highest of its levels; 1 for a whole image at one allocation."""


@dataclass(frozen=True)
class _Patched:
    """One image: its patches, and their results at every level."""

    pair: Pair
    patches: list[Tile]
    results: list[list[NDArray[np.uint8]]]
    """[level][patch]"""


class PatchBank:
    """The patches of image pairs, upscaled at every level by the compiled integer programs.

    Seamless ones are those of whole images here, and a point runs images at the levels that it decides.
    """

    def __init__(
        self,
        network: CalibratedNetwork,
        levels: Sequence[Level],
        layout: Layout,
        pairs: Sequence[Pair],
        threads: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.network, self.levels, self.layout = network, {level.name: level for level in levels}, layout
        self._threads, self._mixed = threads, dict[tuple[str, ...], LevelNetwork]()
        if len(self.levels) < len(levels):
            raise QsearchError("every level of patches needs a name of its own")
        hosts = [HostNetwork(level.program(network), threads) for level in levels]
        self._images: list[_Patched] = []
        for done, pair in enumerate(pairs, 1):
            patches = layout.split(*pair.lr.shape[:2])
            if layout.seamless:
                results = [_cut(host.run(pair.lr), patches, network.model.upscale) for host in hosts]
            else:
                inputs = gather(pair.lr, patches)
                results = [[host.run(part) for part in inputs] for host in hosts]
            self._images.append(_Patched(pair, patches, results))
            if progress:
                progress(done, len(pairs))
        self._order = [level.name for level in levels]

    def point(self, name: str, policy: Policy, levels: Sequence[str]) -> CurvePoint:
        """PSNR and cost of a policy whose level i is the allocation named `levels[i]`."""
        decided = [policy.decide(image.pair.lr, image.patches) for image in self._images]
        extra = [policy.bitops(image.patches) for image in self._images]
        return self._measured(name, decided, extra, levels)

    def oracle(self, name: str, levels: Sequence[str], share: float) -> CurvePoint:
        """The share of all patches that gains most from the first of two levels, chosen with the originals in hand.

        No rule can know this; it bounds what rules of this layout may reach (closely, where patches do not overlap).
        """
        high, low = (self._order.index(level) for level in levels)
        gains = []
        for image in self._images:
            errors = {level: self._errors(image, level) for level in (high, low)}
            # PSNR is a logarithm for each image, so a gain counts by the error that the image has.
            gains.append((errors[low] - errors[high]) / max(errors[low].sum(), 1e-9))
        ranked = np.sort(np.concatenate(gains))[::-1]
        count = int(np.floor(share * len(ranked) + 0.5))
        least = ranked[count - 1] if count else np.inf
        decided = [Decisions(tuple(int(gain < least) for gain in image)) for image in gains]
        return self._measured(name, decided, [0] * len(decided), levels)

    def _measured(
        self, name: str, decided: Sequence[Decisions], extra: Sequence[int], levels: Sequence[str]
    ) -> CurvePoint:
        upscale = self.network.model.upscale
        chosen, indices = [self.levels[level] for level in levels], [self._order.index(level) for level in levels]
        quality, bitops, high, patches = 0.0, 0.0, 0, 0
        for image, decisions, more in zip(self._images, decided, extra, strict=True):
            decisions.check(len(image.patches), len(levels))
            height, width = image.pair.lr.shape[:2]
            if self.layout.seamless:
                map_of = level_map(image.patches, decisions.levels, height, width)
                merged = self._network(levels).run_levels(image.pair.lr, map_of)
            else:
                results = [image.results[indices[level]][index] for index, level in enumerate(decisions.levels)]
                merged = merge(results, image.patches, height, width, upscale)
            quality += psnr(merged, image.pair.hr, Protocol(crop=upscale))
            bitops += patch_bitops(self.network, chosen, self.layout, image.patches, decisions) + more
            high, patches = high + decisions.levels.count(0), patches + len(decisions.levels)
        count = len(self._images)
        return CurvePoint(name, quality / count, bitops / count, high / patches)

    def _computed(self, patches: Sequence[Tile]) -> list[Tile]:
        """What a patch's result is of: seamless ones give no more than they add to the image."""
        return [replace(patch, input=patch.output) if self.layout.seamless else patch for patch in patches]

    def _network(self, levels: Sequence[str]) -> LevelNetwork:
        key = tuple(levels)
        if key not in self._mixed:
            versions = [self.levels[level].version(self.network) for level in levels]
            self._mixed[key] = LevelNetwork(lower_levels(versions), self._threads)
        return self._mixed[key]

    def _errors(self, image: _Patched, level: int) -> NDArray[np.float64]:
        """Sum of the squared errors of Y in what every patch gives to the result."""
        upscale, original = self.network.model.upscale, luma(image.pair.hr)
        pairs = zip(image.results[level], self._computed(image.patches), strict=True)
        return np.array([squared_error(result, patch, original, upscale, upscale) for result, patch in pairs])


def _cut(result: NDArray[np.uint8], patches: Sequence[Tile], upscale: int) -> list[NDArray[np.uint8]]:
    """What every patch gives to a whole upscaled image."""
    return [result[patch.output.scaled(upscale).slices] for patch in patches]


def static_point(
    network: CalibratedNetwork, level: Level, pairs: Sequence[Pair], threads: int | None = None
) -> CurvePoint:
    """The same allocation for the whole image, without patches: what per-patch bits have to beat."""
    host, upscale = HostNetwork(level.program(network), threads), network.model.upscale
    quality = [psnr(host.run(pair.lr), pair.hr, Protocol(crop=upscale)) for pair in pairs]
    bitops = [cost.bitops(network.layers(pair.lr.shape[:2]), level.allocation) for pair in pairs]
    return CurvePoint(level.name, float(np.mean(quality)), float(np.mean(bitops)), 1.0)


def bitops_at(points: Sequence[CurvePoint], psnr_y_db: float) -> float | None:
    """BitOPs that `points` need for a PSNR, linear between neighbours of their front; None where they do not reach it.

    Below the worst point of the front its own BitOPs count.
    """
    front: list[CurvePoint] = []
    for point in sorted(points, key=lambda point: (point.bitops, -point.psnr_y_db)):
        if not front or point.psnr_y_db > front[-1].psnr_y_db:
            front.append(point)
    if not front or psnr_y_db > front[-1].psnr_y_db:
        return None
    return float(np.interp(psnr_y_db, [point.psnr_y_db for point in front], [point.bitops for point in front]))
