"""Reading and writing picture files; inside the program an image is uint8 `[H, W, 3]` RGB."""

import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from qsearch.errors import QsearchError
from qsearch.files import write_atomic

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".ppm")


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """The picture in `path` as uint8 `[H, W, 3]` RGB, upright.

    Gray and palette pictures become RGB; 16 bits per channel are rounded to 8; an opaque alpha channel is dropped.
    Raises `QsearchError` for a missing, truncated or non-image file, real transparency, or a pixel format of no fixed
    range (float, 32-bit integer).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                picture.load()
                upright = ImageOps.exif_transpose(picture)
    except FileNotFoundError as error:
        raise QsearchError(f"image {path} does not exist") from error
    except Image.UnidentifiedImageError as error:
        raise QsearchError(f"{path} is not an image that can be read") from error
    except Image.DecompressionBombError as error:
        raise QsearchError(f"image {path} is too large to read: {error}") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise QsearchError(f"image {path} is damaged or unreadable: {error}") from error
    return _to_rgb(upright, path)


def _to_rgb(picture: Image.Image, path: Path | str) -> NDArray[np.uint8]:
    if picture.mode.startswith("I;16"):
        gray = (np.asarray(picture, dtype=np.int64) * 255 + 32767) // 65535
        return np.repeat(gray.astype(np.uint8)[:, :, None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise QsearchError(f"image {path} has {picture.mode!r} pixels of no fixed range: save it with 8 or 16 bits")
    if "transparency" in picture.info or picture.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        picture = picture.convert("RGBA")
        if np.asarray(picture)[:, :, 3].min() < 255:
            raise QsearchError(f"image {path} has transparent pixels: flatten it onto a background first")
    return np.array(picture.convert("RGB"))


def save_image(path: Path | str, image: NDArray[np.uint8]) -> None:
    """Write uint8 `[H, W, 3]` (or gray `[H, W]`) to `path`, atomically, in the format of its suffix.

    Raises `QsearchError` for an unknown suffix or a file that cannot be written.
    """
    suffix = Path(path).suffix.lower()
    kind = Image.registered_extensions().get(suffix)
    if kind is None or kind not in Image.SAVE:
        raise QsearchError(f"cannot save an image as {path}: {suffix or 'no suffix'} is no known format, try .png")
    buffer = io.BytesIO()
    try:
        Image.fromarray(np.ascontiguousarray(image)).save(buffer, kind)
    except OSError as error:
        raise QsearchError(f"cannot save an image as {path}: {error}") from error
    write_atomic(path, buffer.getvalue())


def image_files(folder: Path | str) -> list[Path]:
    """The picture files of `folder` in the order of their names; raises `QsearchError` where there is none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise QsearchError(f"folder {folder} does not exist")
    return only_images(folder.iterdir()) or _no_images(folder)


def only_images(paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` that have a picture's suffix, sorted by name."""
    return sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))


def _no_images(folder: Path) -> list[Path]:
    raise QsearchError(f"folder {folder} holds no image ({', '.join(SUFFIXES)})")
