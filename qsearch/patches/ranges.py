"""Ranges of activations for the patches of one level alone: flat patches need fewer bits for the same steps."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.errors import QsearchError
from qsearch.network import CalibratedNetwork
from qsearch.passes.quantizers import Quantizer
from qsearch.passes.rewrite import copy_graph
from qsearch.patches.decisions import Decisions, Policy
from qsearch.patches.split import Layout, gather
from qsearch.quant.observers import ValueStats

BATCH = 16
SAMPLES = 256
"""Values of every activation that are kept of a patch."""
MOST_PATCHES, MOST_PIXELS = 512, 600_000
"""What is run to learn ranges, at most."""
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class PatchStatistics:
    """What every activation is in each of some patches, so that the ranges of any of them together cost nothing."""

    network: CalibratedNetwork
    groups: tuple[tuple[str, ...], ...]
    """Sites that read one value."""
    lo: NDArray[np.float32]
    hi: NDArray[np.float32]
    """[groups, patches]"""
    samples: NDArray[np.float32]
    """[groups, patches, SAMPLES]"""

    @staticmethod
    def record(network: CalibratedNetwork, patches: Sequence[Image], seed: int = 0) -> "PatchStatistics":
        """Run the prepared network on `patches`, uint8 [h, w, 3] of one size."""
        groups: dict[int, list[str]] = {}
        for site, stats in network.calibration.stats.items():
            groups.setdefault(id(stats), []).append(site)
        recorder = _Recorder({sites[0] for sites in groups.values()}, seed)
        graph, white = copy_graph(network.calibration.graph), network.calibration.white
        for module in graph.modules():
            if isinstance(module, Quantizer) and module.site in recorder.wanted:
                module.register_forward_hook(recorder.hook(module.site))
        for start in range(0, len(patches), BATCH):
            pixels = np.stack(patches[start : start + BATCH])
            with torch.inference_mode():
                graph(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() * (white / 255))
        lo, hi, samples = (
            np.stack([np.concatenate(parts[sites[0]]) for sites in groups.values()])
            for parts in (recorder.lo, recorder.hi, recorder.samples)
        )
        return PatchStatistics(network, tuple(map(tuple, groups.values())), lo, hi, samples)

    def calibrated(self, chosen: Iterable[int] | None = None) -> CalibratedNetwork:
        """The same prepared network with the ranges of the chosen patches (all by default) alone.

        Weights and sites stay, so that allocations fit both. Raises `QsearchError` without patches.
        """
        at = np.arange(self.lo.shape[1]) if chosen is None else np.array(sorted(chosen), np.int64)
        if not len(at):
            raise QsearchError("a level without patches cannot be calibrated: give more images or another share")
        found: dict[str, ValueStats] = {}
        for group, sites in enumerate(self.groups):
            lo, hi = float(self.lo[group, at].min()), float(self.hi[group, at].max())
            found |= dict.fromkeys(sites, ValueStats.of(self.samples[group, at].ravel(), lo, hi))
        ordered = {site: found[site] for site in self.network.calibration.stats}
        # The integer weights, which activations do not change, are found once for all.
        return CalibratedNetwork(self.network.model, replace(self.network.calibration, stats=ordered, _grids={}))


class OwnRanges:
    """The ranges of whichever patches of LR images (uint8 [H, W, 3]) a policy puts at a level.

    Some patches, of the layout's commonest size, are drawn once and speak for all. Raises `QsearchError` without any.
    """

    def __init__(self, network: CalibratedNetwork, images: Sequence[Image], layout: Layout, seed: int = 0) -> None:
        self.images, self.layout = images, layout
        found: dict[tuple[int, ...], list[tuple[int, int, Image]]] = {}
        for number, image in enumerate(images):
            for index, part in enumerate(gather(image, layout.split(*image.shape[:2]))):
                found.setdefault(part.shape, []).append((number, index, part))
        candidates = max(found.values(), key=len, default=[])
        chosen = [candidates[index] for index in _drawn([part for *_, part in candidates], seed)]
        self.places = [(number, index) for number, index, _ in chosen]
        """Image and patch of everything that was recorded."""
        self.statistics = PatchStatistics.record(network, [part for *_, part in chosen], seed) if chosen else None

    def of(self, level: int, policy: Policy) -> CalibratedNetwork:
        """The network with the ranges of the patches that `policy` puts at `level`."""
        decided = [policy.decide(image, self.layout.split(*image.shape[:2])) for image in self.images]
        return self.decided(level, decided)

    def decided(self, level: int, decisions: Sequence[Decisions]) -> CalibratedNetwork:
        """`of` where it is known already what was decided for every image."""
        if self.statistics is None:
            raise QsearchError("ranges of patches need low-resolution images; there is none")
        at = [k for k, (number, index) in enumerate(self.places) if decisions[number].levels[index] == level]
        return self.statistics.calibrated(at)

    def of_all(self) -> CalibratedNetwork:
        """The network with the ranges of all patches: what a whole image may have."""
        if self.statistics is None:
            raise QsearchError("ranges of patches need low-resolution images; there is none")
        return self.statistics.calibrated()


def _drawn(patches: Sequence[Image], seed: int = 0) -> list[int]:
    """Indices of at most `MOST_PATCHES` patches of one size and `MOST_PIXELS` pixels, at random, in order."""
    if not patches:
        return []
    count = min(MOST_PATCHES, max(MOST_PIXELS // (patches[0].shape[0] * patches[0].shape[1]), 1))
    return sorted(np.random.default_rng(seed).permutation(len(patches))[:count].tolist())


class _Recorder:
    """The range and a sample of what the wanted sites see in every patch."""

    def __init__(self, wanted: set[str], seed: int) -> None:
        self.wanted = wanted
        self.generator = torch.Generator().manual_seed(seed)
        self.lo: dict[str, list[NDArray[np.float32]]] = {}
        self.hi: dict[str, list[NDArray[np.float32]]] = {}
        self.samples: dict[str, list[NDArray[np.float32]]] = {}

    def hook(self, site: str) -> Callable[[nn.Module, Any, Tensor], None]:
        """A forward hook that records the values at `site`."""

        def record(module: nn.Module, operands: Any, value: Tensor) -> None:
            flat = value.flatten(1)
            picked = torch.randint(flat.shape[1], (len(flat), SAMPLES), generator=self.generator)
            for kept, found in (
                (self.lo, flat.amin(1)),
                (self.hi, flat.amax(1)),
                (self.samples, flat.gather(1, picked)),
            ):
                kept.setdefault(site, []).append(found.numpy())

        return record
