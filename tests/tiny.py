"""A residual network in small, as a user's own file: `tests/tiny.py:network`."""

from pathlib import Path

import torch
from torch import Tensor, nn

TINY = f"{Path(__file__)}:network"


class Tiny(nn.Module):
    """Head, one residual block, global skip, pixel shuffle, tail."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.up = nn.Conv2d(8, 32, 3, padding=1)
        self.shuffle = nn.PixelShuffle(2)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x)
        body = self.conv2(torch.relu(self.conv1(head))) + head
        return self.tail(self.shuffle(self.up(body)))


def network() -> Tiny:
    """The network with seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tiny()


def unknown_operator() -> nn.Module:
    """A network with an operator that has no integer form."""

    class Sine(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(super().forward(x))

    return Sine()


def not_a_number() -> nn.Module:
    """A network with a NaN among its weights."""
    model = network()
    model.conv1.weight.data[0, 0, 0, 0] = torch.nan
    return model


def overflowing() -> nn.Module:
    """A network whose weights are finite and whose activations are not."""
    model = network()
    model.conv1.weight.data *= 1e30
    model.conv2.weight.data *= 1e30
    return model
