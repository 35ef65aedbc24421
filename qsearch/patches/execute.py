"""Per-patch execution: patches are gathered by level, run through their integer program, and scattered back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from qsearch import cost
from qsearch.allocation import Allocation, uniform
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.images import Box, Tile
from qsearch.network import CalibratedNetwork
from qsearch.patches.decisions import Decisions, Policy
from qsearch.patches.split import Layout, gather, merge, overwork
from qsearch.quant.finetuned import FineTuned


@dataclass(frozen=True)
class Level:
    """One of the allocations that a patch may get."""

    name: str
    """What is shown of it, such as `8` or `w4a6`."""
    allocation: Allocation
    finetuned: FineTuned | None = None
    """Its trained parameters, if any."""
    calibrated: CalibratedNetwork | None = None
    """The network with the ranges of this level's patches (see `OwnRanges`), if not those of all."""

    def program(self, network: CalibratedNetwork) -> GraphModule:
        """The integer program of this level of `network`."""
        return (self.calibrated or network).program(self.allocation, self.finetuned)


def levels_of(network: CalibratedNetwork, pair: str) -> list[Level]:
    """Uniform levels from high to low for a text such as `8-4` (bits of weights and inputs; skip operands have 8)."""
    return [Level(part, uniform(network.sites, int(part), int(part))) for part in names_of(pair)]


def names_of(pair: str) -> list[str]:
    """The names of uniform levels; raises `QsearchError` for a text that is not such as `8-4`."""
    parts = pair.split("-")
    if not all(part in {"2", "3", "4", "5", "6", "7", "8"} for part in parts):
        raise QsearchError(f"levels {pair!r} are not of the form 8-4 with 2 to 8 bits each")
    return parts


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


class Bodies(Protocol):
    """What upscales the patches of an image, once it is decided how."""

    def run(self, inputs: Sequence[NDArray[np.uint8]], decisions: Decisions) -> list[NDArray[np.uint8]]:
        """Every patch upscaled, in the order of `inputs`, uint8 [h, w, 3]."""
        ...

    def bitops(self, decisions: Decisions, rows: int, columns: int) -> int:
        """BitOPs of patches of `rows` × `columns` LR pixels, one for every decision."""
        ...


class LevelBodies:
    """Every patch for itself: `runs` upscale at each level, `bitops` gives the BitOPs of a patch of (height, width)."""

    def __init__(
        self,
        runs: Sequence[Callable[[NDArray[np.uint8]], NDArray[np.uint8]]],
        bitops: Callable[[int, int], Sequence[int]],
    ) -> None:
        self._runs, self._bitops = tuple(runs), bitops

    def run(self, inputs: Sequence[NDArray[np.uint8]], decisions: Decisions) -> list[NDArray[np.uint8]]:
        """One batch for each level, so that each network's parameters stay in the cache."""
        results: dict[int, NDArray[np.uint8]] = {}
        for level, run in enumerate(self._runs):
            for index in (index for index, chosen in enumerate(decisions.levels) if chosen == level):
                results[index] = run(inputs[index])
        return [results[index] for index in range(len(inputs))]

    def bitops(self, decisions: Decisions, rows: int, columns: int) -> int:
        """See `Bodies.bitops`."""
        by_level = self._bitops(rows, columns)
        return sum(by_level[level] for level in decisions.levels)


class PatchPrograms:
    """Bodies that a policy chooses among for every patch of an image; `names` say what is shown of each level."""

    def __init__(self, bodies: Bodies, names: Sequence[str], layout: Layout, policy: Policy, upscale: int) -> None:
        self.bodies, self.names = bodies, tuple(names)
        self.layout, self.policy, self.upscale = layout, policy, upscale

    def run(self, image: NDArray[np.uint8]) -> PatchResult:
        """Upscale uint8 [H, W, 3] patch by patch."""
        height, width = image.shape[:2]
        patches = self.layout.split(height, width)
        decisions = self.policy.decide(image, patches)
        decisions.check(len(patches), len(self.names))
        results = self.bodies.run(gather(image, patches), decisions)
        merged = merge(results, patches, height, width, self.upscale)
        decided, box = self.policy.bitops(patches), patches[0].input
        total = self.bodies.bitops(decisions, box.bottom - box.top, box.right - box.left) + decided
        return PatchResult(
            merged, patch_reports(self.names, patches, decisions), total, decided, overwork(patches, height, width)
        )


class PatchNetwork:
    """A calibrated network at several allocations, which a policy chooses among for every patch of an image.

    Every level is an ordinary integer program on the compiled kernels; images of any size. Raises `QsearchError`
    without levels or where an allocation does not fit. Not for concurrent calls.
    """

    def __init__(
        self,
        network: CalibratedNetwork,
        levels: Sequence[Level],
        layout: Layout,
        policy: Policy,
        threads: int | None = None,
    ) -> None:
        if not levels:
            raise QsearchError("patches need at least one allocation")
        self.network, self.levels, self.layout, self.policy = network, tuple(levels), layout, policy
        self._hosts = [HostNetwork(level.program(network), threads) for level in self.levels]
        names, runs = [level.name for level in self.levels], [host.run for host in self._hosts]
        bodies = LevelBodies(runs, partial(level_bitops, network, self.levels))
        self._programs = PatchPrograms(bodies, names, layout, policy, network.model.upscale)

    @property
    def halo(self) -> int:
        """LR pixels around a region that its outputs depend on; `Layout.exact` takes it."""
        return self._hosts[0].plan.halo

    def run(self, image: NDArray[np.uint8]) -> PatchResult:
        """Upscale uint8 [H, W, 3] patch by patch."""
        return self._programs.run(image)


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


def level_bitops(network: CalibratedNetwork, levels: Sequence[Level], height: int, width: int) -> list[int]:
    """BitOPs of a patch of `height` × `width` LR pixels at every level."""
    layers = network.layers((height, width))
    return [cost.bitops(layers, level.allocation) for level in levels]


def patch_bitops(
    network: CalibratedNetwork, levels: Sequence[Level], patches: Sequence[Tile], decisions: Decisions
) -> int:
    """BitOPs of the patches' bodies, overlap included."""
    box = patches[0].input
    by_level = level_bitops(network, levels, box.bottom - box.top, box.right - box.left)
    return sum(by_level[level] for level in decisions.levels)
