"""PSNR and SSIM by the protocol of the super-resolution literature, which is written next to every figure."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError

Colour = Literal["y", "rgb"]
Image = NDArray[np.uint8]
Plane = NDArray[np.float64]


@dataclass(frozen=True)
class Protocol:
    """What a PSNR was measured on; without it the number says nothing."""

    colour: Colour = "y"
    crop: int = 0
    """Pixels removed at each side of both images, usually the upscale."""
    lr_source: str = "as stored"
    """How the low-resolution images were made."""

    def __str__(self) -> str:
        colour = "BT.601 luma, not rounded" if self.colour == "y" else "RGB"
        return f"{colour}; output rounded to uint8; {self.crop} px cropped; LR {self.lr_source}"


@dataclass(frozen=True)
class Quality:
    """PSNR in dB (infinite for equal images) and SSIM of one image, or their means."""

    psnr_db: float
    ssim: float


def luma(image: Image) -> Plane:
    """BT.601 luma 16…235 of uint8 RGB `[H, W, 3]`, float64 `[H, W]`, not rounded."""
    pixels = image.astype(np.float64)
    return (65.481 * pixels[..., 0] + 128.553 * pixels[..., 1] + 24.966 * pixels[..., 2]) / 255.0 + 16.0


def psnr(result: Image, original: Image, protocol: Protocol) -> float:
    """PSNR in dB with peak 255 of uint8 `[H, W, 3]` images; raises `QsearchError` when their sizes differ."""
    a, b = _planes(result, original, protocol)
    error = float(np.mean((a - b) ** 2))
    return float("inf") if error == 0 else float(10 * np.log10(255.0**2 / error))


def ssim(result: Image, original: Image, protocol: Protocol) -> float:
    """Mean structural similarity of uint8 `[H, W, 3]` images, averaged over the channels of the protocol.

    Gaussian window 11×11, σ 1.5, valid region only, K1 0.01, K2 0.03, peak 255 (Wang et al. 2004). Raises
    `QsearchError` when the sizes differ or a side is below 11 pixels after the crop.
    """
    a, b = _planes(result, original, protocol)
    if min(a.shape[:2]) < 11:
        raise QsearchError(f"SSIM needs at least 11x11 pixels after the crop, not {a.shape[1]}x{a.shape[0]}")
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a**2
    var_b = _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return float(similarity.mean())


def evaluate_pair(result: Image, original: Image, protocol: Protocol) -> Quality:
    """PSNR and SSIM of one upscaled image against its original."""
    return Quality(psnr(result, original, protocol), ssim(result, original, protocol))


def mean_quality(qualities: Iterable[Quality]) -> Quality:
    """The mean over images, as benchmarks are reported."""
    rows = [(quality.psnr_db, quality.ssim) for quality in qualities]
    if not rows:
        raise QsearchError("there is no image to average over")
    psnr_db, similarity = np.mean(rows, axis=0)
    return Quality(float(psnr_db), float(similarity))


def _planes(result: Image, original: Image, protocol: Protocol) -> tuple[Plane, Plane]:
    if result.dtype != np.uint8 or original.dtype != np.uint8:
        raise TypeError(f"images must be rounded to uint8 first, not {result.dtype} and {original.dtype}")
    if result.shape != original.shape:
        raise QsearchError(f"cannot compare an image of {result.shape[:2]} pixels with one of {original.shape[:2]}")
    height, width = original.shape[:2]
    crop = protocol.crop
    if min(height, width) <= 2 * crop:
        raise QsearchError(f"a {width}x{height} image has nothing left after a crop of {crop} px")
    inner = np.s_[crop : height - crop, crop : width - crop]
    if protocol.colour == "y":
        return luma(result[inner]), luma(original[inner])
    return result[inner].astype(np.float64), original[inner].astype(np.float64)


@lru_cache
def _gaussian() -> Plane:
    x = np.arange(-5, 6)
    window = np.exp(-(x**2) / (2 * 1.5**2))
    return window / window.sum()


def _blur(plane: Plane) -> Plane:
    window = _gaussian()
    for axis in (0, 1):
        length = plane.shape[axis] - 10
        rolled = np.moveaxis(plane, axis, 0)
        plane = np.moveaxis(sum(weight * rolled[tap : tap + length] for tap, weight in enumerate(window)), 0, axis)
    return plane
