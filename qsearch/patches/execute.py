"""Per-patch execution: patches are gathered by level, run through their integer program, and scattered back.

Seamless ones are not: see `seamless`.
"""

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
from qsearch.compile.host_levels import LevelNetwork
from qsearch.errors import QsearchError
from qsearch.images import Tile
from qsearch.integer.levels import Version, lower_levels
from qsearch.network import CalibratedNetwork
from qsearch.patches.decisions import Decisions, Policy
from qsearch.patches.patched import Patched, PatchResult
from qsearch.patches.seamless import SeamlessPrograms, seamless_bitops
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

    def version(self, network: CalibratedNetwork) -> Version:
        """This level of `network` among others of one program, where patches are seamless."""
        return Version((self.calibrated or network).calibration, self.allocation, self.finetuned)


def levels_of(network: CalibratedNetwork, pair: str) -> list[Level]:
    """Uniform levels from high to low for a text such as `8-4` (bits of weights and inputs; skip operands have 8)."""
    return [Level(part, uniform(network.sites, int(part), int(part))) for part in names_of(pair)]


def names_of(pair: str) -> list[str]:
    """The names of uniform levels; raises `QsearchError` for a text that is not such as `8-4`."""
    parts = pair.split("-")
    if not all(part in {"2", "3", "4", "5", "6", "7", "8"} for part in parts):
        raise QsearchError(f"levels {pair!r} are not of the form 8-4 with 2 to 8 bits each")
    return parts


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


class PatchPrograms(Patched):
    """Patches that are upscaled apart, by `bodies`, and merged; `QsearchError` for a layout that is seamless."""

    def __init__(self, bodies: Bodies, names: Sequence[str], layout: Layout, policy: Policy, upscale: int) -> None:
        super().__init__(names, layout, policy, upscale)
        check_apart(layout)
        self.bodies = bodies

    def _upscaled(self, image: NDArray[np.uint8], patches: Sequence[Tile], decisions: Decisions) -> NDArray[np.uint8]:
        results = self.bodies.run(gather(image, patches), decisions)
        return merge(results, patches, image.shape[0], image.shape[1], self.upscale)

    def _bitops(self, patches: Sequence[Tile], decisions: Decisions) -> int:
        box = patches[0].input
        return self.bodies.bitops(decisions, box.bottom - box.top, box.right - box.left)

    def _overwork(self, patches: Sequence[Tile], height: int, width: int) -> float:
        return overwork(patches, height, width)


def check_apart(layout: Layout) -> None:
    """Raise `QsearchError` for seamless patches where patches run by themselves, as with RefER they must."""
    if layout.seamless:
        raise QsearchError("with RefER every patch runs by itself: seamless patches cannot; give --overlap a number")


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
        names, upscale = [level.name for level in self.levels], network.model.upscale
        bitops = partial(level_bitops, network, self.levels)
        self._programs: Patched
        if layout.seamless:
            host = LevelNetwork(lower_levels([level.version(network) for level in self.levels]), threads)
            self._programs = SeamlessPrograms(host.run_levels, bitops, names, layout, policy, upscale)
            self._halo = host.plan.halo
        else:
            hosts = [HostNetwork(level.program(network), threads) for level in self.levels]
            bodies = LevelBodies([host.run for host in hosts], bitops)
            self._programs = PatchPrograms(bodies, names, layout, policy, upscale)
            self._halo = hosts[0].plan.halo

    @property
    def halo(self) -> int:
        """LR pixels around a region that its outputs depend on; `Layout.exact` takes it."""
        return self._halo

    def run(self, image: NDArray[np.uint8]) -> PatchResult:
        """Upscale uint8 [H, W, 3] patch by patch."""
        return self._programs.run(image)


def level_bitops(network: CalibratedNetwork, levels: Sequence[Level], height: int, width: int) -> list[int]:
    """BitOPs of a patch of `height` × `width` LR pixels at every level."""
    layers = network.layers((height, width))
    return [cost.bitops(layers, level.allocation) for level in levels]


def patch_bitops(
    network: CalibratedNetwork,
    levels: Sequence[Level],
    layout: Layout,
    patches: Sequence[Tile],
    decisions: Decisions,
) -> int:
    """BitOPs of the patches' bodies, overlap included."""
    if layout.seamless:
        return seamless_bitops(partial(level_bitops, network, levels), patches, decisions)
    box = patches[0].input
    by_level = level_bitops(network, levels, box.bottom - box.top, box.right - box.left)
    return sum(by_level[level] for level in decisions.levels)
