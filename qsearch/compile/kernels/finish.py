"""Requantizes and stores the accumulators of some neighbouring pixels and blocks of channels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.epilogue import Channels, Epilogue
from qsearch.compile.kernels.isa import Expr, Isa
from qsearch.compile.kernels.placement import Place, Placement


@dataclass(frozen=True)
class Finish:
    """The end of every kernel whose lanes are output channels."""

    isa: Isa
    epilogue: Epilogue
    placement: Placement

    def store(self, base: Place, sums: Sequence[Sequence[Expr]], channels: Sequence[Channels]) -> None:
        """Stores what becomes of int32 `sums` [pixel][block], both counted from `base` on."""
        narrowing = self.isa.narrowing
        # One block after the other, so that its parameters need registers only once.
        vectors = [(p, b) for b in range(len(channels)) for p in range(len(sums))]
        if narrowing is None:
            for p, b in vectors:
                place, skips = self._skips(base, p, b)
                for i, (output, value) in enumerate(self.epilogue.finish(sums[p][b], skips, channels[b])):
                    self.placement.store(i, output, place, value)
            return
        values = {
            (p, b): self.epilogue.accumulator(sums[p][b], self._skips(base, p, b)[1], channels[b]) for p, b in vectors
        }
        for i in range(len(self.epilogue.spec.outputs)):
            rounded = {
                (p, b): T.Bind(self.epilogue.rounded(i, values[p, b], channels[b], narrowing)) for p, b in vectors
            }
            order = sorted(rounded)
            for start in range(0, len(order), narrowing.vectors):
                part = order[start : start + narrowing.vectors]
                joined = [rounded[vector] for vector in part]
                joined += joined[-1:] * (narrowing.vectors - len(part))
                output, value = self.epilogue.joined(i, joined, narrowing)
                self.placement.store_joined(i, output, base, part, T.Bind(value), narrowing.lane)

    def _skips(self, base: Place, pixel: int, block: int) -> tuple[Place, list[Expr]]:
        """The place of one vector, and its skip operands."""
        place = replace(base, x=base.x + pixel, block=base.block + block)
        return place, [self.placement.load_skip(i, place) for i in range(len(self.epilogue.spec.skips))]
