"""Into which tiles an artefact cuts an image: the rule of its runtime (`runtime/tiles.c`), for predictions."""

from qsearch.compile.artefact import DEFAULT_MEMORY_BYTES
from qsearch.compile.memory import tile_bytes
from qsearch.compile.plan import Plan
from qsearch.errors import QsearchError

Axis = tuple[int, int]
"""Tiles along an axis, and the pixels of each."""


def tiles_of(plan: Plan, size: tuple[int, int], limit_bytes: int | None = None) -> tuple[tuple[int, int], int]:
    """The tiles' size (height, width) in input pixels and their number, for an image of `size` = (height, width).

    `limit_bytes` is the working memory of the artefact, by default that of targets without a limit. Raises
    `QsearchError` where no tile fits.
    """
    limit, least = limit_bytes or DEFAULT_MEMORY_BYTES, plan.minimum_size()
    best: tuple[int, Axis, Axis] | None = None
    for rows in _splits(size[0], plan.halo, least[0]):
        if best is not None and rows[0] * rows[1] * size[1] >= best[0]:
            break
        for columns in _splits(size[1], plan.halo, least[1]):
            cost = rows[0] * rows[1] * columns[0] * columns[1]
            if best is not None and cost >= best[0]:
                break
            if _fits(plan, (rows[1], columns[1]), limit):
                best = cost, rows, columns
                break
    if best is None:
        raise QsearchError(f"no tile of this network fits in {limit / 2**20:.0f} MiB of working memory")
    _, rows, columns = best
    return (rows[1], columns[1]), rows[0] * columns[0]


def _splits(size: int, halo: int, least: int) -> list[Axis]:
    """The different ways to cover `size` pixels with tiles that overlap by the halo, from one tile on."""
    found: list[Axis] = []
    for count in range(1, size + 1):
        axis = _split(size, count, halo, least)
        if not found or axis[1] != found[-1][1]:
            found.append(axis)
    return found


def _split(size: int, count: int, halo: int, least: int) -> Axis:
    inner = size - 2 * halo
    if count <= 1 or inner < 1:
        return 1, size
    length = max(-(-inner // count) + 2 * halo, least, 2 * halo + 1)
    if length >= size:
        return 1, size
    step = length - 2 * halo
    return -(-inner // step), length


def _fits(plan: Plan, tile: tuple[int, int], limit: int) -> bool:
    # A single tile that is the whole image reads and writes the caller's memory, but is counted alike.
    try:
        return tile_bytes(plan, *tile) <= limit
    except QsearchError:
        return False  # a buffer of 2 GiB or more
