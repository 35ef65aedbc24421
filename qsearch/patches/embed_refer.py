"""The C data of RefER in an executable: what passes between the parts of its networks, and the numbers of repairs."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qsearch.compile.joined import Joined
from qsearch.compile.plan import Plan
from qsearch.patches.fusion import BASE, QUERY, WARPED
from qsearch.patches.refer_numbers import Unmoved, matching_params
from qsearch.patches.referenced_bodies import Repair
from qsearch.patches.segments import Segment, replaced

REFER = "refer"
"""The beginning of its programs' names among the networks of an executable."""


def segment_network(level: str, index: int) -> str:
    """The name of a segment among the networks of an executable."""
    return f"{level}/{index}"


def fusion_network(index: int) -> str:
    """The name of a repair's fusion among the networks of an executable."""
    return f"{REFER}/{index}"


class ReferTables:
    """What refer.c interprets, of networks that are joined.

    `plans` are the parts before they were joined; `low` the segments of level `level`. `params` are further parameters
    of the joined plan. Raises `QsearchError` where the runtime's narrow integers do not suffice.
    """

    def __init__(
        self,
        joined: Joined,
        plans: Mapping[str, Plan],
        high: tuple[str, Segment],
        low: tuple[str, Sequence[Segment]],
        repairs: Sequence[Repair],
    ) -> None:
        self.joined, self.plans, self.repairs = joined, plans, tuple(repairs)
        self.params: dict[str, NDArray[np.generic]] = {}
        self._moves: list[str] = []
        self._fills: list[str] = []
        self._readers: list[str] = []
        self._params_before = len(joined.plan.params)
        self._level = low[0]
        taps = self._outputs(high[0], high[1])
        values: dict[str, int] = {}
        self._segments: list[str] = []
        self._repairs: list[str] = []
        for index, segment in enumerate(low[1]):
            name = segment_network(low[0], index)
            self._segments.append(self._part(name, values))
            values |= self._outputs(name, segment)
            if index < len(repairs):
                self._repairs.append(self._repair(index, repairs[index], values, taps))
                values |= {replaced(reader): values[reader] for reader in repairs[index].readers}

    def declarations(self, plan: Plan) -> list[str]:
        """C for refer.c; `plan` is the joined one with `params`."""
        assert list(plan.params)[self._params_before :] == list(self.params)
        return [
            '#include "refer.h"',
            f"#define QS_NUM_REPAIRS {len(self._repairs)}",
            f"#define QS_MOST_KEYS {max(len(repair.refer.matching.weight) for repair in self.repairs)}",
            f"#define QS_NUM_FILLS {len(self._fills)}",
            f"static const qs_fill qs_fills[] = {table(self._fills)};",
            f"static const qs_move qs_moves[] = {table(self._moves)};",
            f"static const qs_reader qs_readers[] = {table(self._readers)};",
            f"static const qs_part qs_segments[] = {table(self._segments)};",
            f"static const qs_repair qs_repairs[] = {table(self._repairs)};",
        ]

    def _outputs(self, network: str, segment: Segment) -> dict[str, int]:
        """The buffers of a segment's outputs."""
        places = zip(segment.outputs, self.plans[network].outputs, strict=True)
        return {name: self.joined.index(network, buffer) for name, buffer in places}

    def _part(self, network: str, values: Mapping[str, int], elsewhere: tuple[str, ...] = ()) -> str:
        """A `qs_part` whose features are `values`; those that are `elsewhere` come in another way."""
        first = len(self._moves)
        for number, feature in enumerate(self.plans[network].features):
            place = self.joined.index(network, feature.buffer)
            values_of = self._param(f"{network}/fill{number}", np.array(feature.fill, np.uint8))
            self._fills.append(table((place, feature.first, len(feature.fill), values_of)))
            if feature.name not in elsewhere:
                self._moves.append(table((values[feature.name], place, feature.first)))
        return table((first, len(self._moves), *self.joined.steps[network]))

    def _repair(self, index: int, repair: Repair, values: Mapping[str, int], taps: Mapping[str, int]) -> str:
        """A `qs_repair`."""
        matching, fusion, network = repair.refer.matching, repair.refer.fusion, fusion_network(index)
        query = values[repair.query]
        base = query if fusion.carrier is None else values[repair.readers[fusion.carrier]]
        part = self._part(network, {QUERY: query, BASE: base}, (WARPED,))
        (warped,) = (feature for feature in self.plans[network].features if feature.name == WARPED)
        first = len(self._readers)
        fused = self._outputs(network, fusion.segment)
        # The base is repaired last: the others are compared with what it was.
        for number in sorted(range(len(repair.readers)), key=lambda number: number == fusion.carrier):
            unmoved = Unmoved.of(fusion, number, matching.zero_point)
            params = {name: self._param(f"{network}/{number}/{name}", v) for name, v in unmoved.params().items()}
            numbers = (params.get(name, -1) for name in ("k", "m", "unmoved"))
            new = fused[fusion.segment.outputs[number]]
            self._readers.append(table((values[repair.readers[number]], new, *numbers, *unmoved.grid)))
        places = query, taps[repair.reference], base, self.joined.index(network, warped.buffer), warped.first
        arrays = [self._param(f"{network}/{name}", value) for name, value in matching_params(matching).items()]
        keys, channels = matching.weight.shape
        sizes = keys, channels, matching.reduce, matching.zero_point, len(matching.table)
        return table((*places, first, len(self._readers), *arrays, *sizes, part))

    def _param(self, name: str, values: NDArray[np.generic]) -> int:
        """The number of a new parameter."""
        self.params[name] = values
        return self._params_before + len(self.params) - 1


def table(values: Iterable[object]) -> str:
    """A C initializer."""
    return f"{{{', '.join(map(str, values))}}}"
