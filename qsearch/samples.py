"""Photographs that come with scikit-image, so that everything runs without a download."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage
from numpy.typing import NDArray

from qsearch.images import Pair, downscale, mod_crop, read_image

NAME = "samples"
"""What a command line says instead of a folder."""
CALIBRATION = ("rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg", "retina.jpg")
SEARCH = (("coffee.png", 60, 180), ("chelsea.png", 40, 120), ("astronaut.png", 0, 130), ("astronaut.png", 260, 30))
"""File, top and left of the crops that a search is measured on; no picture is also a calibration image."""
HELD_OUT = (("astronaut.png", 260, 272), ("ihc.png", 130, 130), ("camera.png", 60, 130))
"""Crops that neither calibration nor a search sees; on them it is decided whether fine-tuning was worth it."""
CROP = 240


def photograph(name: str) -> NDArray[np.uint8]:
    """One of scikit-image's pictures, uint8 [H, W, 3]."""
    return read_image(Path(skimage.__file__).parent / "data" / name)


def calibration_images(upscale: int, limit: int | None = None) -> list[NDArray[np.uint8]]:
    """Low-resolution images for calibration, made by bicubic, at most `limit`."""
    return [downscale(mod_crop(photograph(name), upscale), upscale) for name in CALIBRATION[:limit]]


def search_pairs(upscale: int, limit: int | None = None) -> list[Pair]:
    """Crops of 240×240 pixels with their low-resolution images, at most `limit`."""
    return _crops(SEARCH[:limit], upscale)


def held_out_pairs(upscale: int) -> list[Pair]:
    """The pairs of `HELD_OUT`."""
    return _crops(HELD_OUT, upscale)


def _crops(places: Sequence[tuple[str, int, int]], upscale: int) -> list[Pair]:
    pairs = []
    for name, top, left in places:
        hr = mod_crop(photograph(name)[top : top + CROP, left : left + CROP], upscale)
        pairs.append(Pair(f"{Path(name).stem}_{top}_{left}", downscale(hr, upscale), hr, "MATLAB bicubic"))
    return pairs
