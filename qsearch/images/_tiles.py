"""Cutting an image into tiles that overlap by the network's halo, so that tiled results equal the untiled one."""

from collections.abc import Iterator
from dataclasses import dataclass

from qsearch.errors import QsearchError


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows `top:bottom`, columns `left:right`."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, as an array index."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def scaled(self, upscale: int) -> "Box":
        """The same rectangle in the upscaled image."""
        return Box(self.top * upscale, self.left * upscale, self.bottom * upscale, self.right * upscale)

    def within(self, outer: "Box") -> "Box":
        """The same rectangle in coordinates that start at the corner of `outer`."""
        return Box(self.top - outer.top, self.left - outer.left, self.bottom - outer.top, self.right - outer.left)


@dataclass(frozen=True)
class Tile:
    """What a tile reads and what it writes, both in LR pixels of the image."""

    input: Box
    output: Box


def tiles(height: int, width: int, tile: tuple[int, int], halo: int) -> Iterator[Tile]:
    """Tiles of an image, row by row: outputs partition it, inputs lie inside it and are at most `tile` (rows, columns).

    Each output pixel is at least `halo` pixels away from every side of its input that is not a side of the image, so
    a network whose receptive field reaches `halo` pixels gives the untiled bytes. Raises `QsearchError` for an empty
    image or a tile with no room for a pixel and its halo.
    """
    rows, columns = _intervals(height, tile[0], halo), _intervals(width, tile[1], halo)
    for (in_top, in_bottom), (top, bottom) in rows:
        for (in_left, in_right), (left, right) in columns:
            yield Tile(Box(in_top, in_left, in_bottom, in_right), Box(top, left, bottom, right))


def _intervals(size: int, tile: int, halo: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Input and output intervals along one side, as few as possible; the inputs are as long as the tile allows."""
    if size < 1 or halo < 0:
        raise QsearchError(f"cannot tile an image side of {size} pixels with a halo of {halo}")
    if size <= tile:
        return [((0, size), (0, size))]
    if tile <= 2 * halo:
        raise QsearchError(f"a tile of {tile} pixels has no room for a halo of {halo}: use more than {2 * halo}")
    result = []
    start = 0
    while start < size:
        # All inputs have one size (a kernel may ask for it): the last moves back instead of shrinking.
        begin = min(max(start - halo, 0), size - tile)
        end = begin + tile
        stop = size if end == size else end - halo
        result.append(((begin, end), (start, stop)))
        start = stop
    return result
