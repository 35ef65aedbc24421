"""Small networks with random weights that use every operator of the pass vocabulary."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MEAN = (0.4488, 0.4371, 0.4040)


class Block(nn.Module):
    """A residual block; options choose its normalization, its activation and what follows the sum."""

    def __init__(self, channels: int, norm: bool, relu_after: bool, res_scale: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=not norm)
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()
        self.act = nn.PReLU(channels) if norm else nn.LeakyReLU(0.1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu_after = relu_after
        self.res_scale = res_scale

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.act(self.norm(self.conv1(x)))) * self.res_scale + x
        return torch.relu(y) if self.relu_after else y


class SmallNetwork(nn.Module):
    """Mean shift, head, blocks, global skip, shuffle with a per-channel PReLU behind it, tail."""

    mean: Tensor

    def __init__(
        self, channels: int = 8, upscale: int = 2, norm: bool = True, relu_after: bool = True, res_scale: float = 0.5
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.head = nn.Conv2d(3, channels, 5, padding=2)
        self.body = nn.Sequential(*(Block(channels, norm, relu_after, res_scale) for _ in range(2)))
        self.up = nn.Conv2d(channels, channels * upscale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(upscale)
        self.act = nn.PReLU(channels)
        self.tail = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        head = self.head(x - self.mean)
        up = self.act(self.shuffle(self.up(self.body(head) + head)))
        return self.tail(up) + self.mean


class SmallAnchor(nn.Module):
    """ABPN in small: the repeated image is added before the shuffle, and the result is clipped."""

    def __init__(self, channels: int = 6, upscale: int = 3) -> None:
        super().__init__()
        self.upscale = upscale
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, 3 * upscale**2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(torch.relu(self.conv1(x))) + x.repeat_interleave(self.upscale**2, dim=1)
        return torch.clamp(nn.functional.pixel_shuffle(y, self.upscale), 0.0, 1.0)


class SmallJoins(nn.Module):
    """CARN and IMDN in small: joined values of several readers, split values, grouped convolutions, a joined image."""

    def __init__(self, channels: int = 8, upscale: int = 2) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.grouped = nn.Conv2d(channels, channels, 3, padding=1, groups=2)
        self.first = nn.Conv2d(2 * channels, channels, 1)
        self.act = nn.PReLU(channels)
        self.second = nn.Conv2d(channels - 3, channels, 3, padding=1)
        self.last = nn.Conv2d(3 * channels + 6, 3 * upscale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(upscale)

    def forward(self, x: Tensor) -> Tensor:
        head = torch.relu(self.head(x))
        joined = torch.cat([head, self.grouped(head)], 1)
        kept, rest = torch.split(self.act(self.first(joined)), [3, self.second.in_channels], dim=1)
        again = self.second(rest) + head
        return self.shuffle(self.last(torch.cat([joined, kept, again, x], 1)))


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same network in evaluation mode with random statistics and slopes, activations of order one."""
    random = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=random) * 0.2
            module.running_var = torch.rand(module.num_features, generator=random) + 0.5
        if isinstance(module, nn.PReLU):
            module.weight.data = torch.rand(module.num_parameters, generator=random) * 0.5
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=random) / fan_in**0.5
            if module.bias is not None:
                module.bias.data = torch.randn(module.bias.shape, generator=random) * 0.1
    return model.eval()


def random_images(count: int = 3, height: int = 24, width: int = 32, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Blocky random images: edges of every contrast, and noise."""
    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        coarse = random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3))
        fine = np.repeat(np.repeat(coarse, 4, 0), 4, 1)[:height, :width]
        images.append(np.clip(fine + random.integers(-20, 21, fine.shape), 0, 255).astype(np.uint8))
    return images
