"""Contrast stretched to full black and white, for statistics of pictures that the images at hand happen to lack."""

import numpy as np
from numpy.typing import NDArray


def stretched(image: NDArray[np.uint8], by_colour: bool = False) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] whose darkest value is 0 and whose brightest is 255, over all colours or in every one alone."""
    axes = (0, 1) if by_colour else (0, 1, 2)
    low, high = (end(image, axis=axes, keepdims=True).astype(np.float64) for end in (np.min, np.max))
    return np.rint((image - low) * (255 / np.maximum(high - low, 1))).astype(np.uint8)
