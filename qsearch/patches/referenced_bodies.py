"""References, then queries segment by segment with RefER between: what upscales the patches of an image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.patches.decisions import Decisions
from qsearch.patches.deployed import DeployedRefER
from qsearch.patches.execute import LevelBodies
from qsearch.patches.referenced import borrowed
from qsearch.patches.segments import IMAGE, Executor, Segment, replaced

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
class _Known:
    """What the queries of a reference borrow from at one RefER."""

    codes: Codes
    keys: NDArray[np.float32]


class ReferencedBodies:
    """References at the high allocation, queries at the low one with RefER; see `execute.Bodies`.

    Repair i comes after segment i of the low network; the outputs of `high` are its image and a feature for every
    RefER. `make` makes the executor of a segment, `bitops` gives those of a patch of (height, width) at both levels.
    """

    def __init__(
        self,
        high: Segment,
        low: Sequence[Segment],
        repairs: Sequence[Repair],
        make: Callable[[Segment], Executor],
        bitops: Callable[[int, int], Sequence[int]],
    ) -> None:
        self.high, self.low, self.repairs = high, tuple(low), tuple(repairs)
        self._levels = LevelBodies((), bitops)
        self._high = make(high)
        self._segments = [make(segment) for segment in low]
        self._fusions = [make(repair.refer.fusion.segment) for repair in repairs]

    def run(self, inputs: Sequence[Codes], decisions: Decisions) -> list[Codes]:
        """Every patch upscaled: first all references, then all queries."""
        references = borrowed(decisions).tolist()
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

    def bitops(self, decisions: Decisions, rows: int, columns: int) -> int:
        """Of the levels and of RefER."""
        return self._levels.bitops(decisions, rows, columns) + refer_bitops(self.repairs, decisions, rows, columns)

    def _reference(self, patch: Codes, wanted: bool) -> tuple[Codes, list[_Known]]:
        values = self._high({IMAGE: patch})
        features = [(repair.refer, values[repair.reference]) for repair in self.repairs if wanted]
        return values[self.high.outputs[0]], [_Known(codes, refer.keys(codes)) for refer, codes in features]

    def _query(self, patch: Codes, known: Sequence[_Known]) -> Codes:
        values = {IMAGE: patch}
        for index, segment in enumerate(self._segments):
            values |= segment(values)
            if index < len(self.repairs):
                values |= self._repaired(index, values, known[index])
        return values[self.low[-1].outputs[0]]

    def _repaired(self, index: int, values: dict[str, Codes], known: _Known) -> dict[str, Codes]:
        repair = self.repairs[index]
        old = [values[name] for name in repair.readers]
        new = repair.refer.run(values[repair.query], old, known.codes, self._fusions[index], known.keys)
        return {replaced(name): codes for name, codes in zip(repair.readers, new, strict=True)}


def refer_bitops(repairs: Sequence[Repair], decisions: Decisions, rows: int, columns: int) -> int:
    """Of all RefERs for the patches of an image; the keys of a reference are counted once."""
    found = decisions.references or ()
    queries = [reference for index, reference in enumerate(found) if reference != index]
    costs = [repair.refer.bitops(rows, columns) for repair in repairs]
    return sum(len(set(queries)) * reference + len(queries) * query for reference, query in costs)
