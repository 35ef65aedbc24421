"""Random crops of low-resolution images to fine-tune on."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsearch.errors import QsearchError
from qsearch.images import stretched
from qsearch.quant.finetune_settings import MIN_PATCH


class Crops:
    """Random crops of low-resolution images of any sizes, turned in the eight ways of a square.

    A share `stretched` of them has its contrast stretched to full black and white, half of these in every colour
    alone, so that bounds also serve the bright, dark and colourful pictures that the images happen to lack.
    """

    def __init__(self, images: Sequence[NDArray[np.uint8]], white: float, stretched: float = 0.0) -> None:
        if not images:
            raise QsearchError("fine-tuning needs at least one low-resolution image; there is none")
        self.images, self.white, self.stretched = images, white, stretched
        self.smallest = min(min(image.shape[:2]) for image in images)
        if self.smallest < MIN_PATCH:
            raise QsearchError(
                f"an image to fine-tune on has a side of {self.smallest} pixels: at least {MIN_PATCH} are needed"
            )

    def batch(self, seed: tuple[int, ...], count: int, side: int) -> Tensor:
        """float32 [count, 3, side, side] in 0…white, channels last; smaller where an image is."""
        random, side = np.random.default_rng(seed), min(side, self.smallest)
        chosen = random.choice(len(self.images), count, replace=count > len(self.images))
        crops = np.stack([self._crop(self.images[index], side, random) for index in chosen])
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2).float() * (self.white / 255)
        return pixels.contiguous(memory_format=torch.channels_last)

    def _crop(self, image: NDArray[np.uint8], side: int, random: np.random.Generator) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        top, left = random.integers(height - side + 1), random.integers(width - side + 1)
        crop = np.rot90(image[top : top + side, left : left + side], int(random.integers(4)))
        crop = crop[:, ::-1] if random.integers(2) else crop
        drawn = random.random()
        return crop if drawn >= self.stretched else stretched(crop, by_colour=drawn < self.stretched / 2)

    def digest(self) -> str:
        """Changes with the images."""
        found = hashlib.sha256()
        for image in self.images:
            found.update(str(image.shape).encode() + np.ascontiguousarray(image).tobytes())
        return found.hexdigest()[:16]
