"""Binary PPM, the image format that artefacts read and write."""

import re

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError

_HEADER = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")


def encode_ppm(image: NDArray[np.uint8]) -> bytes:
    """uint8 `[H, W, 3]` as a binary PPM."""
    height, width, _ = image.shape
    return f"P6\n{width} {height}\n255\n".encode() + np.ascontiguousarray(image).tobytes()


def decode_ppm(data: bytes, name: str = "the PPM") -> NDArray[np.uint8]:
    """The image uint8 `[H, W, 3]` in a PPM without comments; raises `QsearchError` naming `name` if it is damaged."""
    match = _HEADER.match(data)
    if match is None:
        raise QsearchError(f"{name} is not a binary PPM image")
    width, height = int(match[1]), int(match[2])
    if len(data) - match.end() != width * height * 3:
        raise QsearchError(f"{name} is truncated")
    return np.frombuffer(data, np.uint8, offset=match.end()).reshape(height, width, 3).copy()
