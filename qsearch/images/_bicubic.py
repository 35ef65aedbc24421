"""Bicubic resizing with MATLAB's arithmetic, which made the low-resolution images of every benchmark."""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError


def resize_bicubic(image: NDArray[np.uint8], numerator: int, denominator: int = 1) -> NDArray[np.uint8]:
    """Resize uint8 `[H, W, C]` (or `[H, W]`) by `numerator / denominator` as MATLAB's `imresize` does, byte for byte.

    Antialiased when shrinking; the height goes first and its result is rounded to uint8 before the width.
    The size is rounded up, as in MATLAB. Raises `QsearchError` for a factor that is not positive.
    Source: `imresize.m` (Keys' kernel, a = -0.5, repeated border pixels, double arithmetic, halves away from zero).
    """
    if numerator <= 0 or denominator <= 0:
        raise QsearchError(f"cannot resize an image by {numerator}/{denominator}: both must be positive")
    factor = Fraction(numerator, denominator)
    return _along(_along(image, 0, factor), 1, factor)


def downscale(image: NDArray[np.uint8], upscale: int) -> NDArray[np.uint8]:
    """The low-resolution image of which `image` is the `upscale`-fold original (both sides divisible by it)."""
    if image.shape[0] % upscale or image.shape[1] % upscale:
        raise QsearchError(f"a {image.shape[1]}x{image.shape[0]} image is not divisible by {upscale}: crop it first")
    return resize_bicubic(image, 1, upscale)


def _keys_cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a = np.abs(x)
    near = 1.5 * a**3 - 2.5 * a**2 + 1
    far = -0.5 * a**3 + 2.5 * a**2 - 4 * a + 2
    return near * (a <= 1) + far * ((a > 1) & (a <= 2))


def _contributions(size: int, factor: Fraction) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Weights and source indices `[out, taps]` of each output sample."""
    scale = float(factor)
    out = -((-size * factor.numerator) // factor.denominator)
    stretch = min(scale, 1.0)
    width = 4.0 / stretch
    centre = np.arange(1, out + 1) / scale + 0.5 * (1 - 1 / scale)
    left = np.floor(centre - width / 2)
    indices = left[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = stretch * _keys_cubic(stretch * (centre[:, None] - indices))
    weights /= weights.sum(1, keepdims=True)
    # The benchmark files come from the imresize that repeats the border pixel; later ones mirror the image there.
    source = np.clip(indices.astype(np.intp) - 1, 0, size - 1)
    used = np.any(weights != 0, axis=0)
    return weights[:, used], source[:, used]


def _along(image: NDArray[np.uint8], axis: int, factor: Fraction) -> NDArray[np.uint8]:
    weights, source = _contributions(image.shape[axis], factor)
    pixels = np.moveaxis(image, axis, 0).astype(np.float64)
    total = np.zeros((weights.shape[0], *pixels.shape[1:]))
    shape = (-1,) + (1,) * (pixels.ndim - 1)
    for tap in range(weights.shape[1]):
        total += weights[:, tap].reshape(shape) * pixels[source[:, tap]]
    # MATLAB's conversion rounds halves away from zero; every negative value ends at 0.
    rounded = np.clip(np.floor(total + 0.5), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(rounded, 0, axis))
