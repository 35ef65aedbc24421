"""Self-ensemble: the mean of a network's results on the eight turns of an image (Timofte et al., CVPR 2016, §3.5)."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Upscaler = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
TURNS = 8


def turned(image: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """One of the eight symmetries of the square, 0 to 7, of `[H, W, C]`."""
    image = image[::-1] if turn & 1 else image
    image = image[:, ::-1] if turn & 2 else image
    return image.transpose(1, 0, 2) if turn & 4 else image


def turned_back(image: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """The inverse of `turned`."""
    image = image.transpose(1, 0, 2) if turn & 4 else image
    image = image[:, ::-1] if turn & 2 else image
    return image[::-1] if turn & 1 else image


def self_ensemble(upscale_image: Upscaler) -> Upscaler:
    """`upscale_image` on all eight turns, turned back, averaged and rounded (half to even); eight times the work."""

    def ensemble(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        results = (turned_back(upscale_image(np.ascontiguousarray(turned(image, turn))), turn) for turn in range(TURNS))
        return np.rint(np.mean([result.astype(np.float64) for result in results], axis=0)).astype(np.uint8)

    return ensemble
