"""The compiled network of two widths with RefER between: references, then queries segment by segment, then merging."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from qsearch.errors import QsearchError
from qsearch.images import Tile
from qsearch.integer import ops
from qsearch.integer.lowering import lower
from qsearch.network import CalibratedNetwork
from qsearch.patches.decisions import Decisions, Policy
from qsearch.patches.deployed import DeployedRefER, grid_of
from qsearch.patches.execute import Level, PatchResult, patch_bitops, patch_reports
from qsearch.patches.referenced import ReferencedTwin, borrowed
from qsearch.patches.segments import IMAGE, Executor, Segment, compiled, cut, replaced, whole
from qsearch.patches.split import Layout, gather, merge, overwork
from qsearch.quant.grid import Grid

Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Repair:
    """One RefER between two segments of the low network."""

    refer: DeployedRefER
    query: str
    """The low network's value on RefER's grid."""
    readers: tuple[str, ...]
    """The values that it replaces."""
    reference: str
    """The high network's output on RefER's grid."""


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
    def of(network: CalibratedNetwork, twin: ReferencedTwin) -> "ReferencedProgram":
        """Of the parameters that `twin` has now; raises `QsearchError` where a RefER was never trained."""
        modules = twin.refer_modules()
        taps = {at: grid_of(module) for at, module in modules.items()}
        levels = tuple(Level(name, part.allocation, part.finetuned()) for name, part in twin.parts().items())
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
        found = decisions.references or ()
        queries = [reference for index, reference in enumerate(found) if reference != index]
        costs = [repair.refer.bitops(rows, columns) for repair in self.repairs]
        return sum(len(set(queries)) * reference + len(queries) * query for reference, query in costs)


@dataclass(frozen=True)
class _Known:
    """What the queries of a reference borrow from at one RefER."""

    codes: Codes
    keys: NDArray[np.float32]


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
        make = execute or partial(compiled, threads=threads)
        self._high = make(program.high)
        self._segments = [make(segment) for segment in program.segments]
        self._fusions = [make(repair.refer.fusion.segment) for repair in program.repairs]

    def run(self, image: Codes) -> PatchResult:
        """Upscale uint8 [H, W, 3]."""
        height, width = image.shape[:2]
        patches = self.layout.split(height, width)
        decisions = self.policy.decide(image, patches)
        levels = self.program.levels
        decisions.check(len(patches), len(levels))
        merged = merge(self._results(image, patches, decisions), patches, height, width, self.network.model.upscale)
        decided, first = self.policy.bitops(patches), patches[0].input
        refer = self.program.refer_bitops(decisions, first.bottom - first.top, first.right - first.left)
        total = patch_bitops(self.network, levels, patches, decisions) + refer + decided
        reports = patch_reports([level.name for level in levels], patches, decisions)
        return PatchResult(merged, reports, total, decided, overwork(patches, height, width))

    def _results(self, image: Codes, patches: Sequence[Tile], decisions: Decisions) -> list[Codes]:
        """Every patch upscaled: first all references, then all queries."""
        inputs, references = gather(image, patches), borrowed(decisions).tolist()
        results: dict[int, Codes] = {}
        known: dict[int, list[_Known]] = {}
        wanted = {reference for index, reference in enumerate(references) if reference != index}
        for index in (index for index, reference in enumerate(references) if reference == index):
            results[index], known[index] = self._reference(inputs[index], index in wanted)
        for index in (index for index, reference in enumerate(references) if reference != index):
            if references[index] not in known:
                raise QsearchError("a query borrows from a patch that is no reference")
            results[index] = self._query(inputs[index], known[references[index]])
        return [results[index] for index in range(len(inputs))]

    def _reference(self, patch: Codes, wanted: bool) -> tuple[Codes, list[_Known]]:
        values = self._high({IMAGE: patch})
        features = [(repair.refer, values[repair.reference]) for repair in self.program.repairs if wanted]
        return values[self.program.high.outputs[0]], [_Known(codes, refer.keys(codes)) for refer, codes in features]

    def _query(self, patch: Codes, known: Sequence[_Known]) -> Codes:
        values = {IMAGE: patch}
        for index, segment in enumerate(self._segments):
            values |= segment(values)
            if index < len(self.program.repairs):
                values |= self._repaired(index, values, known[index])
        return values[self.program.segments[-1].outputs[0]]

    def _repaired(self, index: int, values: dict[str, Codes], known: _Known) -> dict[str, Codes]:
        repair = self.program.repairs[index]
        old = [values[name] for name in repair.readers]
        new = repair.refer.run(values[repair.query], old, known.codes, self._fusions[index], known.keys)
        return {replaced(name): codes for name, codes in zip(repair.readers, new, strict=True)}


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
