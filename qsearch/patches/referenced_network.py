"""A trained network of two widths with RefER between in integers, and its execution on images."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from qsearch.integer import ops
from qsearch.integer.lowering import lower
from qsearch.network import CalibratedNetwork
from qsearch.patches.decisions import Decisions, Policy
from qsearch.patches.deployed import DeployedRefER, grid_of
from qsearch.patches.execute import Level, PatchPrograms, level_bitops
from qsearch.patches.patched import PatchResult
from qsearch.patches.referenced import ReferencedTwin
from qsearch.patches.referenced_bodies import ReferencedBodies, Repair, refer_bitops
from qsearch.patches.segments import Executor, Segment, compiled, cut, whole
from qsearch.patches.split import Layout
from qsearch.quant.grid import Grid


@dataclass(frozen=True)
class ReferencedProgram:
    """Everything that a trained `ReferencedTwin` is in integers.

    The high network gives its image and its feature at every RefER; repair i comes after segment i of the low one.
    """

    levels: tuple[Level, Level]
    high: Segment
    segments: tuple[Segment, ...]
    repairs: tuple[Repair, ...]

    @staticmethod
    def of(
        network: CalibratedNetwork, twin: ReferencedTwin, names: tuple[str, str] = ("high", "low")
    ) -> "ReferencedProgram":
        """Of the parameters that `twin` has now; `names` are those of the levels.

        Raises `QsearchError` where a RefER was never trained.
        """
        modules = twin.refer_modules()
        taps = {at: grid_of(module) for at, module in modules.items()}
        levels = tuple(
            Level(name, part.allocation, part.finetuned())
            for name, part in zip(names, twin.parts().values(), strict=True)
        )
        high, low = (lower(network.calibration, level.allocation, level.finetuned, taps) for level in levels)
        references, queries = whole(high).outputs[1:], _results(low)[1:]
        readers = [_readers(query) for query in queries]
        repairs = tuple(
            Repair(
                DeployedRefER.of(module, [_grid(low, node) for node in replaced_here]),
                query.name,
                tuple(node.name for node in replaced_here),
                reference,
            )
            for module, query, replaced_here, reference in zip(
                modules.values(), queries, readers, references, strict=True
            )
        )
        return ReferencedProgram((levels[0], levels[1]), whole(high), tuple(cut(low, readers)), repairs)

    def refer_bitops(self, decisions: Decisions, rows: int, columns: int) -> int:
        """Of all RefERs for the patches of an image; the keys of a reference are counted once."""
        return refer_bitops(self.repairs, decisions, rows, columns)


class ReferencedNetwork:
    """Upscales images patch by patch: references at the high allocation, queries at the low one with RefER.

    `execute` makes the executor of a segment: the compiled kernels, or with `segments.interpreted` the operations
    themselves, which give the same bytes. The policy must cluster. Not for concurrent calls.
    """

    def __init__(
        self,
        network: CalibratedNetwork,
        program: ReferencedProgram,
        layout: Layout,
        policy: Policy,
        threads: int | None = None,
        execute: Callable[[Segment], Executor] | None = None,
    ) -> None:
        self.network, self.program, self.layout, self.policy = network, program, layout, policy
        make, by_level = execute or partial(compiled, threads=threads), partial(level_bitops, network, program.levels)
        bodies = ReferencedBodies(program.high, program.segments, program.repairs, make, by_level)
        names = [level.name for level in program.levels]
        self._programs = PatchPrograms(bodies, names, layout, policy, network.model.upscale)

    def run(self, image: NDArray[np.uint8]) -> PatchResult:
        """Upscale uint8 [H, W, 3]."""
        return self._programs.run(image)


def _results(program: GraphModule) -> list[Node]:
    return list(next(node for node in program.graph.nodes if node.op == "output").args[0])


def _readers(query: Node) -> list[Node]:
    """The quantizers of the accumulator that `query` is made of, which the network itself reads."""
    accumulator = query.args[0]
    assert isinstance(accumulator, Node)
    return [
        node
        for node in accumulator.users
        if node.target is ops.requantize and any(user.op != "output" for user in node.users)
    ]


def _grid(program: GraphModule, node: Node) -> Grid:
    """The grid of a requantized value, within its clip bounds."""
    bounds = node.args[3]
    assert isinstance(bounds, Node)
    zero_point, lo, hi, *pieces = program.get_buffer(str(bounds.target)).tolist()
    return Grid(node.meta["scale"], zero_point, lo, hi, (pieces[0], pieces[1], pieces[2]) if pieces else None)
