"""A small calibrated network and textured images for tests of patches."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from qsearch.models import load
from qsearch.network import CalibratedNetwork
from tests.small_networks import random_images
from tests.tiny import TINY


@cache
def tiny() -> CalibratedNetwork:
    """The residual network in small (upscale 2), calibrated."""
    return CalibratedNetwork.make(load(TINY), random_images(3, 64, 64))


def textures(height: int = 48, width: int = 48, side: int = 16) -> NDArray[np.uint8]:
    """A chessboard of flat squares and squares of strong noise, uint8 [height, width, 3]."""
    random = np.random.default_rng(0)
    rows, columns = np.indices((height, width))
    busy = ((rows // side + columns // side) % 2 == 1)[..., None]
    noise = random.integers(0, 256, (height, width, 3))
    return np.where(busy, noise, 90).astype(np.uint8)
