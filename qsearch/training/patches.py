"""The training images in memory, and random patches of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qsearch.errors import QsearchError
from qsearch.images import downscale, image_files, mod_crop, read_image


class Patches:
    """Random patches of the original images in `folders`; the images stay in memory as uint8, with their bicubic LR.

    Images with a side below `patch` low-resolution pixels are skipped; raises `QsearchError` when none is left.
    """

    def __init__(
        self, folders: Sequence[Path | str], *, upscale: int, white: float, patch: int, batch: int, seed: int
    ) -> None:
        self.upscale, self.white, self.patch, self.batch, self.seed = upscale, white, patch, batch, seed
        self.names = [Path(folder).name for folder in folders]
        self.lr: list[NDArray[np.uint8]] = []
        self.hr: list[NDArray[np.uint8]] = []
        files = [path for folder in folders for path in image_files(folder)]
        for path in files:
            hr = mod_crop(read_image(path), upscale)
            if min(hr.shape[:2]) >= self.patch * upscale:
                self.hr.append(hr)
                self.lr.append(downscale(hr, upscale))
        if not self.hr:
            raise QsearchError(
                f"none of the {len(files)} training images has a side of {self.patch * upscale} pixels: "
                f"give larger images or a smaller patch (now {self.patch} low-resolution pixels)"
            )
        self.skipped = len(files) - len(self.hr)
        # Every patch position is equally likely, so that large images count for more than small ones.
        positions = np.array([(h - self.patch + 1) * (w - self.patch + 1) for h, w, _ in (x.shape for x in self.lr)])
        self.likelihood = positions / positions.sum()

    def batch_of(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Input `[B, 3, P, P]` and target of one iteration, float32 in 0…white."""
        random = np.random.default_rng([self.seed, iteration])
        lr, hr = [], []
        for index in random.choice(len(self.hr), self.batch, p=self.likelihood):
            height, width, _ = self.lr[index].shape
            top, left = random.integers(height - self.patch + 1), random.integers(width - self.patch + 1)
            turn = int(random.integers(8))
            lr.append(_turned(_cut(self.lr[index], top, left, self.patch), turn))
            u = self.upscale
            hr.append(_turned(_cut(self.hr[index], top * u, left * u, self.patch * u), turn))
        return _tensor(lr, self.white), _tensor(hr, self.white)


def _cut(image: NDArray[np.uint8], top: int, left: int, size: int) -> NDArray[np.uint8]:
    return image[top : top + size, left : left + size]


def _turned(patch: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    """One of the eight symmetries of the square."""
    patch = patch[::-1] if turn & 1 else patch
    patch = patch[:, ::-1] if turn & 2 else patch
    return patch.transpose(1, 0, 2) if turn & 4 else patch


def _tensor(patches: list[NDArray[np.uint8]], white: float) -> Tensor:
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float() * (white / 255.0)
