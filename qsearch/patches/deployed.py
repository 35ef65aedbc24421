"""RefER as it is deployed: 8-bit codes in and out, integers between, the same bytes on any machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.patches.conv8 import TOP
from qsearch.patches.fusion import Fusion
from qsearch.patches.matching import Matching
from qsearch.patches.refer import BITS, RefER, refer_macs
from qsearch.patches.segments import Executor
from qsearch.quant.grid import Grid

WIDE_BITS = 32
"""Bits that the products of softmax and flow are counted with."""
Codes = NDArray[np.uint8]


def grid_of(module: RefER) -> Grid:
    """The 8-bit grid on which `module` sees features; raises `QsearchError` where training never gave it a range."""
    top = float(module.fuse.top)
    if top <= 0:
        raise QsearchError("RefER has seen no features yet and so has no range: train it first")
    return Grid(float(np.float32(top) / np.float32(TOP)), TOP + 1, 1, 2 * TOP + 1)


@dataclass(frozen=True)
class DeployedRefER:
    """A trained RefER between the segments of integer programs: no float island.

    Query and reference are uint8 codes [h, w, C] on `grid`; a result is on each reader's grid. The projection, the
    comparison, softmax (by a stored table), flow and sampling are `Matching`; the fusion is an integer program.
    """

    grid: Grid
    matching: Matching
    fusion: Fusion

    @staticmethod
    def of(module: RefER, readers: Sequence[Grid]) -> "DeployedRefER":
        """From the trained module and the grids of all that read the repaired feature."""
        grid = grid_of(module)
        temperature = float(module.log_temperature.detach().exp())
        matching = Matching.of(module.project.weight, temperature, module.reduce, grid.zero_point)
        return DeployedRefER(grid, matching, Fusion.of(module.fuse, grid, readers))

    def keys(self, reference: Codes) -> NDArray[np.float32]:
        """What all queries of a reference share."""
        return self.matching.keys(reference)

    def run(
        self,
        query: Codes,
        known: Sequence[Codes],
        reference: Codes,
        execute: Executor,
        keys: NDArray[np.float32] | None = None,
    ) -> list[Codes]:
        """The readers' codes of the repaired feature.

        `known` are the readers' codes of the query as it was; `execute` runs the fusion's program; `keys` are those of
        the reference.
        """
        warped = self.matching.warped(query, reference, keys)
        outputs = execute(self.fusion.inputs(query, warped, known))
        return self.fusion.results(query, known, [outputs[name] for name in self.fusion.segment.outputs])

    def bitops(self, rows: int, columns: int) -> tuple[int, int]:
        """Σ MAC · bits · bits of one patch of `rows` × `columns` as a reference, that is its keys, and as a query."""
        projected, channels = self.matching.weight.shape
        macs = refer_macs(channels, projected, self.matching.reduce, self.fusion.kernel, rows, columns)
        cells = -(-rows // self.matching.reduce) * -(-columns // self.matching.reduce)
        # Sums over cells, which are wider than pixels, are what is projected.
        sum_bits = BITS + (self.matching.reduce**2 - 1).bit_length()
        keys = self.matching.weight.size * cells * sum_bits * BITS
        return keys, keys + (macs["volume"] + macs["warp"] + macs["fuse"]) * BITS**2 + macs["flow"] * WIDE_BITS**2
