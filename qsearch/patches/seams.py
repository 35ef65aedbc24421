"""Whether the borders of patches show in the upscaled image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qsearch.images import Tile
from qsearch.metrics import luma


def seam_excess(result: NDArray[np.uint8], whole: NDArray[np.uint8], patches: Sequence[Tile], upscale: int) -> float:
    """How much larger differences across borders of patches are than elsewhere; 0 without seams, 0.02 is 2 %.

    Mean absolute differences of Y between neighbouring pixels, on borders and elsewhere, are compared with those of
    `whole` (the same image upscaled without patches) at the same places, so that what the picture itself has there
    does not count. 0 where no two patches meet.
    """
    height, width = result.shape[:2]
    rows, columns = np.zeros(height - 1, bool), np.zeros(width - 1, bool)
    for patch in patches:
        box = patch.output.scaled(upscale)
        rows[[edge - 1 for edge in (box.top, box.bottom) if 0 < edge < height]] = True
        columns[[edge - 1 for edge in (box.left, box.right) if 0 < edge < width]] = True
    across, elsewhere = (_differences(result, rows, columns, on) for on in (True, False))
    across_whole, elsewhere_whole = (_differences(whole, rows, columns, on) for on in (True, False))
    if not across or not elsewhere or not across_whole or not elsewhere_whole:
        return 0.0
    return float((across / elsewhere) / (across_whole / elsewhere_whole) - 1)


def _differences(image: NDArray[np.uint8], rows: NDArray[np.bool_], columns: NDArray[np.bool_], on: bool) -> float:
    """Mean absolute difference of Y over the marked steps between rows and between columns, or the unmarked ones."""
    y = luma(image)
    down, right = np.abs(np.diff(y, axis=0))[rows == on], np.abs(np.diff(y, axis=1))[:, columns == on]
    count = down.size + right.size
    return float((down.sum() + right.sum()) / count) if count else 0.0
