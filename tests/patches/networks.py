"""A small calibrated network and textured images for tests of patches."""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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


class Wide(nn.Module):
    """A residual block of enough channels for every kernel form (upscale 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.up = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 12, 3, padding=1)
        self.first, self.second = (nn.Conv2d(32, 32, 3, padding=1) for _ in range(2))
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x)
        return self.shuffle(self.up(self.second(torch.relu(self.first(head))) + head))


def wide_model() -> nn.Module:
    """`Wide` with seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Wide()


@cache
def wide() -> CalibratedNetwork:
    """The network of many channels, calibrated."""
    return CalibratedNetwork.make(load(f"{__file__}:wide_model"), random_images(3, 64, 64))


class Joined(nn.Module):
    """Three residual blocks, whose outputs are joined, and a global skip (upscale 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second, self.third = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.join = nn.Conv2d(24, 8, 1)
        self.up = nn.Conv2d(8, 12, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x)
        one = torch.relu(self.first(head) + head)
        two = self.second(one) + one
        three = self.third(two) + two
        return self.shuffle(self.up(self.join(torch.cat([one, two, three], 1)) + head))


def joined_model() -> nn.Module:
    """`Joined` with seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Joined()


@cache
def joined() -> CalibratedNetwork:
    """The network that joins its blocks, calibrated."""
    return CalibratedNetwork.make(load(f"{__file__}:joined_model"), random_images(3, 64, 64))
