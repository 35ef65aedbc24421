"""Measured latency of settings on this machine, against whole images at the highest allocation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qsearch.compile import tuning
from qsearch.compile.host import HostNetwork
from qsearch.measure.timers import interleave
from qsearch.network import CalibratedNetwork
from qsearch.patches.execute import Level, LevelBodies, PatchPrograms
from qsearch.patches.scoring import Configuration

ROUNDS = 7
Image = NDArray[np.uint8]


@dataclass
class PatchTimer:
    """`latency_ms` of an image: the median over interleaved rounds of the ratio to the reference, times its median.

    The reference is whole images at `reference`, so that drift of the machine cancels. Every level runs in its fastest
    kernels. Patches are decided, gathered and merged by this process, in NumPy; an artefact does that in C, faster.
    """

    network: CalibratedNetwork
    reference: Level
    images: Sequence[Image]
    """LR images; one sample runs all of them, and the time is divided by their number."""
    threads: int | None = None
    _reference: tuple[Callable[[], None], float] | None = field(default=None, repr=False)

    def latency_ms(self, made: Configuration) -> float:
        """Mean over the images; whole images run without any handling of patches."""
        if self._reference is None:
            run = partial(self._each, self._host(self.reference).run)
            alone = interleave({"reference": run}, ROUNDS)
            self._reference = run, alone.timings["reference"].median_ms / len(self.images)
        reference, reference_ms = self._reference
        trial = partial(self._each, self._upscaler(made))
        return interleave({"reference": reference, "trial": trial}, ROUNDS).ratios["trial"].median * reference_ms

    def _upscaler(self, made: Configuration) -> Callable[[Image], object]:
        runs = [self._host(level).run for level in made.levels]
        if len(runs) == 1:
            return runs[0]
        names = [level.name for level in made.levels]
        upscale = self.network.model.upscale
        bodies = LevelBodies(runs, lambda h, w: [0] * len(names))
        return PatchPrograms(bodies, names, made.layout, made.policy, upscale).run

    def _host(self, level: Level) -> HostNetwork:
        return HostNetwork(level.program(self.network), self.threads, choose=tuning.measured(self.threads))

    def _each(self, run: Callable[[Image], object]) -> None:
        for image in self.images:
            run(image)
