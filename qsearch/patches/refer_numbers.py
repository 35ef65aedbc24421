"""The numbers of RefER as the compiled runtime takes them, and what its narrow integers can hold."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.patches.fusion import Fusion
from qsearch.patches.matching import Matching

_LARGEST_SUM = 2**15
"""A cell's sum of codes above the zero point, in 16 bits."""


def matching_params(m: Matching) -> dict[str, NDArray[np.generic]]:
    """The arrays of `qs_matching` in the runtime's matching.c, in its order, each one-dimensional.

    Raises `QsearchError` where cells or channels are so many that a sum would not fit.
    """
    most = max(m.zero_point, 255 - m.zero_point) * m.reduce**2
    if most > _LARGEST_SUM:
        raise QsearchError(f"RefER compares cells of {m.reduce}x{m.reduce} pixels: compiled, it needs at most 16x16")
    if most * int(np.abs(m.weight.astype(np.int64)).sum(1).max(initial=0)) >= 2**31 - 1:
        raise QsearchError(f"RefER of {m.weight.shape[1]} channels and cells of {m.reduce} pixels passes 32 bits")
    return {
        "weight": np.ascontiguousarray(m.weight.astype(np.int16).ravel()),
        "factor": np.ascontiguousarray(m.factor),
        "table": np.append(m.table, 0).astype(np.int32),
    }


@dataclass(frozen=True)
class Unmoved:
    """How the runtime has the codes of a reader that a fusion does not move: `qs_reader` in refer.h."""

    k: NDArray[np.int32] | None = None
    m: NDArray[np.float32] | None = None
    """Both or none, [C]."""
    table: NDArray[np.uint8] | None = None
    """Instead of them, [C · 256]."""
    grid: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Zero point of the base; zero point, least and greatest code of the reader."""

    @staticmethod
    def of(fusion: Fusion, reader: int, own_zero: int) -> "Unmoved":
        """Of a reader; `own_zero` is the zero point of RefER's own grid. Nothing for the carrier."""
        codes = fusion.unmoved[reader]
        if codes is None:
            return Unmoved()
        buffer = fusion.segment.module.get_buffer
        k, m = (buffer(name).numpy() for name in ("k", f"m{reader}"))
        zero, lo, hi, *pieces = buffer(f"bounds{reader}").tolist()
        base = own_zero if fusion.carrier is None else int(buffer(f"bounds{fusion.carrier}")[0])
        products = (np.arange(256) - base) * k[:, None].astype(np.int64)
        real = np.clip(products.astype(np.float32) * m[:, None], lo - zero, hi - zero)
        fits = np.abs(products).max(initial=0) < 2**31
        if pieces or not fits or not np.array_equal(np.rint(real) + zero, codes):
            return Unmoved(table=codes.ravel())
        return Unmoved(k, m, None, (base, zero, lo, hi))

    def params(self) -> dict[str, NDArray[np.generic]]:
        """The arrays that there are, by name."""
        arrays = {"k": self.k, "m": self.m, "unmoved": self.table}
        return {name: np.ascontiguousarray(values) for name, values in arrays.items() if values is not None}
