"""High- and low-resolution pairs, from a benchmark folder or made from plain pictures."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.images._bicubic import downscale
from qsearch.images._files import image_files, read_image

BENCHMARK_NAME = re.compile(r"(?P<image>.+)_SRF_(?P<upscale>\d+)_(?P<kind>HR|LR)$")


@dataclass(frozen=True)
class Pair:
    """A low-resolution image and its original, both uint8 RGB; the original is exactly `upscale` times as large."""

    name: str
    lr: NDArray[np.uint8]
    """`[H, W, 3]`"""
    hr: NDArray[np.uint8]
    """`[H·upscale, W·upscale, 3]`"""
    lr_source: str
    """How the low-resolution image was made: `as stored` or `MATLAB bicubic`."""


def mod_crop(image: NDArray[np.uint8], upscale: int) -> NDArray[np.uint8]:
    """`image` without the last rows and columns that are not a multiple of `upscale`."""
    height, width = (side - side % upscale for side in image.shape[:2])
    return image[:height, :width]


def read_pairs(folder: Path | str, upscale: int, limit: int | None = None) -> list[Pair]:
    """The pairs of `folder`, in the order of their names, at most `limit`.

    Files named `*_SRF_{s}_HR` and `*_SRF_{s}_LR` are taken as stored where s is `upscale`; every other picture (an HR
    file without its LR, or of another factor, included) is an original: cropped to a multiple of `upscale`, its LR
    made by MATLAB's bicubic. Raises `QsearchError` for an LR file that does not fit its original.
    """
    return list(iterate_pairs(folder, upscale, limit))


def iterate_pairs(folder: Path | str, upscale: int, limit: int | None = None) -> Iterator[Pair]:
    """As `read_pairs`, one at a time."""
    originals = [path for path in image_files(folder) if not _is_low_resolution(path)]
    if not originals:
        raise QsearchError(f"folder {folder} holds low-resolution images only: originals are needed here")
    for path in originals[:limit]:
        match = BENCHMARK_NAME.match(path.stem)
        stored = path.with_name(f"{path.stem[:-2]}LR{path.suffix}")
        if match and int(match["upscale"]) == upscale and stored.exists():
            yield _stored_pair(path, stored, upscale)
        else:
            hr = mod_crop(read_image(path), upscale)
            if not hr.size:
                raise QsearchError(f"image {path} is smaller than the upscale {upscale}")
            yield Pair(path.stem, downscale(hr, upscale), hr, "MATLAB bicubic")


def read_lr_images(folders: Path | str | Sequence[Path | str], limit: int | None = None) -> list[NDArray[np.uint8]]:
    """Low-resolution images, each uint8 `[H, W, 3]`: the `*_LR` files of a benchmark folder, all of any other."""
    chosen: list[Path] = []
    for folder in [folders] if isinstance(folders, (str, Path)) else folders:
        files = image_files(folder)
        chosen += [path for path in files if _is_low_resolution(path)] or files
    return [read_image(path) for path in chosen[:limit]]


def _stored_pair(path: Path, stored: Path, upscale: int) -> Pair:
    hr, lr = mod_crop(read_image(path), upscale), read_image(stored)
    if hr.shape[:2] != (lr.shape[0] * upscale, lr.shape[1] * upscale):
        raise QsearchError(
            f"{stored.name} is {lr.shape[1]}x{lr.shape[0]}, which is not 1/{upscale} of {path.name} "
            f"({hr.shape[1]}x{hr.shape[0]})"
        )
    return Pair(path.stem, lr, hr, "as stored")


def _is_low_resolution(path: Path) -> bool:
    match = BENCHMARK_NAME.match(path.stem)
    return match is not None and match["kind"] == "LR"
