"""Ranges of activations for the patches of one level alone: flat patches need fewer bits for the same steps."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qsearch.errors import QsearchError
from qsearch.network import CalibratedNetwork
from qsearch.passes.quantizers import Quantizer
from qsearch.passes.rewrite import copy_graph
from qsearch.patches.decisions import Policy
from qsearch.patches.split import Layout, gather
from qsearch.quant.calibration import Calibration
from qsearch.quant.observers import ValueStats

BATCH = 16
SAMPLES = 4096
"""Values of every activation that are kept of a batch."""
MOST_PATCHES = 256


def recalibrated(network: CalibratedNetwork, patches: Sequence[NDArray[np.uint8]], seed: int = 0) -> CalibratedNetwork:
    """The same prepared network with the activation statistics of `patches` (uint8 [h, w, 3], one size) alone.

    Weights and sites stay, so that allocations fit both. Raises `QsearchError` without patches.
    """
    if not patches:
        raise QsearchError("a level without patches cannot be calibrated: give more images or another share")
    old = network.calibration
    chosen = np.sort(np.random.default_rng(seed).permutation(len(patches))[:MOST_PATCHES])
    groups: dict[int, list[str]] = {}
    for site, stats in old.stats.items():
        groups.setdefault(id(stats), []).append(site)
    recorder = _Recorder({sites[0] for sites in groups.values()}, seed)
    graph = copy_graph(old.graph)
    hooks = [
        module.register_forward_hook(recorder.hook(module.site))
        for module in graph.modules()
        if isinstance(module, Quantizer) and module.site in recorder.wanted
    ]
    for start in range(0, len(chosen), BATCH):
        pixels = np.stack([patches[index] for index in chosen[start : start + BATCH]])
        with torch.inference_mode():
            graph(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() * (old.white / 255))
    for hook in hooks:
        hook.remove()
    found: dict[str, ValueStats] = {}
    for sites in groups.values():
        found.update(dict.fromkeys(sites, recorder.statistics(sites[0])))
    ordered = {site: found[site] for site in old.stats}
    # The weights are the same ones: what was found for them is shared.
    return CalibratedNetwork(
        network.model, Calibration(old.graph, old.white, ordered, old.factors, _weights=old._weights)
    )


def patches_at(
    level: int, policy: Policy, images: Sequence[NDArray[np.uint8]], layout: Layout
) -> list[NDArray[np.uint8]]:
    """The patches of LR images (uint8 [H, W, 3]) that `policy` puts at a level; only those of the commonest size."""
    found: dict[tuple[int, ...], list[NDArray[np.uint8]]] = {}
    for image in images:
        patches = layout.split(*image.shape[:2])
        decided = policy.decide(image, patches).levels
        for part, chosen in zip(gather(image, patches), decided, strict=True):
            if chosen == level:
                found.setdefault(part.shape, []).append(part)
    return max(found.values(), key=len, default=[])


class _Recorder:
    """The range and a sample of what the wanted sites see."""

    def __init__(self, wanted: set[str], seed: int) -> None:
        self.wanted = wanted
        self.generator = torch.Generator().manual_seed(seed)
        self.ranges: dict[str, tuple[float, float]] = {}
        self.samples: dict[str, list[Tensor]] = {}

    def hook(self, site: str) -> Callable[[nn.Module, Any, Tensor], None]:
        """A forward hook that records the values at `site`."""

        def record(module: nn.Module, operands: Any, value: Tensor) -> None:
            lo, hi = float(value.min()), float(value.max())
            before = self.ranges.get(site, (lo, hi))
            self.ranges[site] = min(lo, before[0]), max(hi, before[1])
            picked = torch.randint(value.numel(), (SAMPLES,), generator=self.generator)
            self.samples.setdefault(site, []).append(value.flatten()[picked])

        return record

    def statistics(self, site: str) -> ValueStats:
        return ValueStats.of(torch.cat(self.samples[site]).numpy(), *self.ranges[site])
