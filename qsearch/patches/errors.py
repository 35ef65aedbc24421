"""What one patch adds to the squared error of an image: where patches are cropped, PSNR is a sum over them."""

import numpy as np
from numpy.typing import NDArray

from qsearch.images import Tile
from qsearch.metrics import luma

PEAK = 255.0
LEAST = 1e-10
"""Mean squared error of equal images, so that their PSNR is a number."""


def squared_error(
    result: NDArray[np.uint8], patch: Tile, original_y: NDArray[np.float64], upscale: int, crop: int
) -> float:
    """Σ of the squared error of Y in what an upscaled patch gives to the image, but for `crop` pixels at its border.

    `result` is the patch's uint8 [h·upscale, w·upscale, 3], `original_y` the luma of the whole original, float64.
    """
    inner, place = patch.output.within(patch.input).scaled(upscale), patch.output.scaled(upscale)
    height, width = original_y.shape
    top, left = max(crop - place.top, 0), max(crop - place.left, 0)
    bottom, right = min(place.bottom, height - crop) - place.top, min(place.right, width - crop) - place.left
    if bottom <= top or right <= left:
        return 0.0
    within = np.s_[top:bottom, left:right]
    difference = luma(result[inner.slices][within]) - original_y[place.slices][within]
    return float((difference**2).sum())


def psnr_of(error: float, height: int, width: int, crop: int) -> float:
    """PSNR in dB of an original of `height` × `width` pixels of which `crop` at each side do not count."""
    mean = error / ((height - 2 * crop) * (width - 2 * crop))
    return float(10 * np.log10(PEAK**2 / max(mean, LEAST)))
