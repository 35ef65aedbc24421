"""A network that is ready to run, and running it on an image."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class LoadedModel:
    """A float super-resolution network in evaluation mode, without gradients."""

    module: nn.Module
    """Takes float32 `[N, 3, H, W]` and gives `[N, 3, H·upscale, W·upscale]`, both in 0…`white`."""
    name: str
    family: str
    """The architecture, one of `qsearch.models.FAMILIES`, or `custom`."""
    upscale: int
    white: float
    """The value of a white pixel at the input and the output: 1.0 or 255.0."""

    def run(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Upscale one uint8 RGB image `[H, W, 3]`; the result is clipped and rounded (half to even) to uint8."""
        with torch.inference_mode():
            return to_image(self.module(to_input(image, self.white)), self.white)


def freeze(module: nn.Module) -> nn.Module:
    """Put `module` in evaluation mode and stop its gradients; returns it."""
    return module.eval().requires_grad_(False)


def to_input(image: NDArray[np.uint8], white: float) -> Tensor:
    """uint8 `[H, W, 3]` as float32 `[1, 3, H, W]` in 0…`white`."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    return pixels.float() if white == 255.0 else pixels.float() * (white / 255.0)


def to_image(output: Tensor, white: float) -> NDArray[np.uint8]:
    """Float `[1, 3, H, W]` in 0…`white` as uint8 `[H, W, 3]`: clipped, then rounded half to even."""
    levels = (output[0] * (255.0 / white)).clamp(0, 255).round()
    return np.ascontiguousarray(levels.to(torch.uint8).permute(1, 2, 0).numpy())
