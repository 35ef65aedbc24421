"""The runtime's matching, compiled for this machine as a library, called from Python."""

import ctypes
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from qsearch.compile import glue, link
from qsearch.compile.kernels import host_isas
from qsearch.patches.matching import Matching
from qsearch.patches.refer_numbers import matching_params
from qsearch.target import load_target

_FOLDER = TemporaryDirectory(prefix="qsearch-matching-")
_SOURCE = """
#include "matching.c"

void match(const qs_matching *m, const uint8_t *query, const uint8_t *reference, int64_t rows, int64_t columns,
           int16_t *keys, int16_t *known, int32_t *volume, int32_t *flow, uint8_t *warped) {
  const int64_t down = qs_cells(rows, m->reduce), across = qs_cells(columns, m->reduce);
  qs_keys(m, query, rows, columns, 0, down, keys);
  qs_keys(m, reference, rows, columns, 0, down, known);
  for (int64_t r = 0; r < down; r++) qs_flow(m, keys, known, down, across, r, r + 1, volume, flow);
  for (int64_t y = 0; y < rows; y++)
    qs_warp(m, reference, flow, rows, columns, y, y + 1, warped, columns * m->channels, m->channels);
}
"""


class _Matching(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "factor", "table")),
        *((name, ctypes.c_int32) for name in ("keys", "channels", "reduce", "zero_point", "length")),
    )


@cache
def _library() -> ctypes.CDLL:
    folder = Path(_FOLDER.name)
    (folder / "match.c").write_text(_SOURCE)
    triple = load_target("host").zig_triple
    options = (f"-DQS_ISA_{host_isas()[0]}", "-DQS_MOST_KEYS=16")
    link.link_module(
        [link.compile_c("match.c", triple, folder, Path(str(glue.RUNTIME)), options=options)], "m.so", triple, folder
    )
    return ctypes.CDLL(str(folder / "m.so"))


def match(m: Matching, query: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The query's keys [cells, keys], and the reference as the query's pixels find it."""
    rows, columns, channels = query.shape
    arrays = matching_params(m)
    pointers = [array.ctypes.data for array in arrays.values()]
    keys = len(m.weight)
    numbers = _Matching(*pointers, keys, channels, m.reduce, m.zero_point, len(m.table))
    cells, pairs = -(-rows // m.reduce) * -(-columns // m.reduce), -(-keys // 2)
    found, known = np.zeros((2, pairs, cells, 2), np.int16)
    volume, flow, warped = np.zeros(cells, np.int32), np.zeros((cells, 2), np.int32), np.zeros_like(query)
    places = [array.ctypes.data_as(ctypes.c_void_p) for array in (found, known, volume, flow, warped)]
    images = [array.ctypes.data_as(ctypes.c_void_p) for array in (query, reference)]
    size = ctypes.c_int64(rows), ctypes.c_int64(columns)
    _library().match(ctypes.byref(numbers), *images, *size, *places)
    return found.transpose(1, 0, 2).reshape(cells, 2 * pairs)[:, :keys], warped
