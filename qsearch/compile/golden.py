"""Golden images of an artefact: an input, what the integer reference makes of it, and whether the executable agrees."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch.compile.emulation import CannotRunError
from qsearch.compile.manifest import GOLDEN
from qsearch.compile.ppm import encode_ppm
from qsearch.compile.run_artefact import check_executable, run_reference
from qsearch.errors import QsearchError


def golden_image(minimum: tuple[int, int], size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """A synthetic image with flat parts, gradients, hard edges and noise: uint8 `[H, W, 3]`."""
    height, width = max(size[0], minimum[0]), max(size[1], minimum[1])
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=2)
    image[(x // 12 + y // 12) % 3 == 0] = (255, 255, 255)
    image[(x // 12 + y // 12) % 5 == 0] = (0, 0, 0)
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (height // 2, width // 2, 3))
    image[: height // 2, : width // 2] = noise
    return image.astype(np.uint8)


def write_golden(
    folder: Path, image: NDArray[np.uint8], executable: str, halo: int, emulated_cpu: str = "max"
) -> dict[str, Any]:
    """Write `image` and the reference's output of it to `folder`, and compare the executable's with the latter.

    An emulator stands in for exactly `emulated_cpu`, so that an instruction which the target lacks is noticed.
    Returns what the manifest says of it: `{"ok": True, "by": "native" or the emulator's name}`, or `{"ok": False,
    "reason": …}` where this machine cannot run the executable. Raises `QsearchError` where any byte differs.
    """
    expected = run_reference(folder, image)
    (folder / "golden").mkdir()
    (folder / GOLDEN["input"]).write_bytes(encode_ppm(image))
    (folder / GOLDEN["output"]).write_bytes(encode_ppm(expected))
    problems: list[str] = []
    try:
        by = check_executable(folder / executable, image, expected, halo, problems, emulated_cpu)
    except CannotRunError as error:
        return {"ok": False, "reason": str(error).replace(f"{folder.resolve()}/", "")}
    if problems:
        raise QsearchError(f"the compiled network differs from the integer reference: {problems[0]}")
    return {"ok": True, "by": by}
