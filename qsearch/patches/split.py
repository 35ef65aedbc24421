"""Splitting an image into patches of one size; merging the upscaled ones, exactly or by an integer average."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.images import Box, Tile, tiles

Merge = Literal["crop", "average", "seamless"]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Layout:
    """How an image is split, in LR pixels: patches of at most `patch` × `patch`; neighbours share `overlap` pixels.

    `crop` drops half of the overlap at every border that is not the image's: the outputs partition the image, and where
    the half is at least the network's halo the result has the bytes of the whole image (networks without strides).
    `average` keeps everything and takes the mean where patches overlap. `seamless` patches partition the image and are
    never apart: every layer runs on the whole image, each patch at its bits, and reads true neighbours, so that there
    is nothing to merge and no overlap. Raises `QsearchError` for impossible sizes.
    """

    patch: int
    overlap: int = 0
    merge: Merge = "crop"

    def __post_init__(self) -> None:
        if self.merge not in ("crop", "average", "seamless"):
            raise QsearchError(f"patches are seamless or merged by crop or average, not {self.merge!r}")
        if self.seamless and self.overlap:
            raise QsearchError(f"seamless patches read their neighbours: they have no overlap of {self.overlap} pixels")
        if not 0 <= self.overlap < self.patch:
            raise QsearchError(f"an overlap of {self.overlap} pixels does not fit patches of {self.patch}: use less")
        if self.merge == "crop" and self.overlap % 2:
            raise QsearchError(f"an overlap of {self.overlap} pixels cannot be cropped by halves: use an even number")

    @property
    def seamless(self) -> bool:
        """Whether patches read their neighbours, layer by layer."""
        return self.merge == "seamless"

    @staticmethod
    def exact(output: int, halo: int) -> "Layout":
        """Patches that each give `output` × `output` pixels, with the halo that makes them exact."""
        return Layout(output + 2 * halo, 2 * halo)

    def split(self, height: int, width: int) -> list[Tile]:
        """What every patch reads and what it gives, row by row.

        All inputs have one size, the smallest that covers the image with as few patches; the last of a row moves back.
        """
        if min(height, width) < 1:
            raise QsearchError(f"cannot split an image of {width}x{height} pixels")
        sides = self._side(height), self._side(width)
        if self.merge != "average":
            return list(tiles(height, width, sides, self.overlap // 2))
        rows, columns = (self._intervals(size, side) for size, side in zip((height, width), sides, strict=True))
        boxes = [Box(top, left, bottom, right) for (top, bottom), (left, right) in product(rows, columns)]
        return [Tile(box, box) for box in boxes]

    def _side(self, size: int) -> int:
        """The side of the patches along a side of the image: without this, the last patch would repeat much."""
        if size <= self.patch:
            return size
        inner = size - self.overlap
        count = -(-inner // (self.patch - self.overlap))
        return -(-inner // count) + self.overlap

    def _intervals(self, size: int, side: int) -> list[tuple[int, int]]:
        starts = [*range(0, size - side, max(side - self.overlap, 1)), size - side]
        return [(start, start + side) for start in starts]


def overwork(patches: Sequence[Tile], height: int, width: int) -> float:
    """Pixels that are computed for each pixel of the image by patches that run apart; 1 without overlap."""
    return sum(area(patch.input) for patch in patches) / (height * width)


def area(box: Box) -> int:
    """Pixels of a box."""
    return (box.bottom - box.top) * (box.right - box.left)


def level_map(patches: Sequence[Tile], levels: Sequence[int], height: int, width: int) -> Image:
    """The level of every pixel, uint8 [height, width], from that of every patch; their outputs partition the image."""
    found = np.zeros((height, width), np.uint8)
    for patch, level in zip(patches, levels, strict=True):
        found[patch.output.slices] = level
    return found


def gather(image: Image, patches: Iterable[Tile]) -> list[Image]:
    """The inputs of the patches, each uint8 [h, w, 3] and contiguous."""
    return [np.ascontiguousarray(image[patch.input.slices]) for patch in patches]


def merge(results: Sequence[Image], patches: Sequence[Tile], height: int, width: int, upscale: int) -> Image:
    """The upscaled image, uint8 [height·upscale, width·upscale, C], from every patch's upscaled input.

    Where n outputs overlap, a value is their mean ⌊(2·Σ + n) / 2n⌋: halves are rounded up, in integers.
    """
    shape = (height * upscale, width * upscale, results[0].shape[2])
    total, count = np.zeros(shape, np.int32), np.zeros((*shape[:2], 1), np.int32)
    for result, patch in zip(results, patches, strict=True):
        inner, place = patch.output.within(patch.input).scaled(upscale), patch.output.scaled(upscale)
        total[place.slices] += result[inner.slices]
        count[place.slices] += 1
    return ((2 * total + count) // (2 * count)).astype(np.uint8)
