"""The numbers of RefER as the compiled runtime takes them, and what its narrow integers can hold."""

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


def unmoved_params(fusion: Fusion) -> dict[str, NDArray[np.generic]]:
    """For every reader but the carrier its codes of the base's codes without fusion, uint8 [C · 256]."""
    return {f"unmoved{index}": codes.ravel() for index, codes in enumerate(fusion.unmoved) if codes is not None}
