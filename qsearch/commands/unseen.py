"""Images that a search, its calibration and its fine-tuning have not seen, to decide on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from qsearch import samples
from qsearch.errors import QsearchError
from qsearch.images import Pair
from qsearch.run import Run, pairs_of


def unseen_pairs(run: Run, images: str | None, tuned_on: Sequence[NDArray[np.uint8]]) -> tuple[list[Pair], str]:
    """Pairs that neither the trials of `run` were measured on nor fine-tuning sees, and what they are in words.

    They are those of `images`, if given; else the images of the run's folder that its limit left out; else bundled
    photographs kept for this. Raises `QsearchError` where `images` holds nothing else than what was seen.
    """
    upscale = run.model.upscale
    seen = {_key(pair.lr) for pair in run.pairs} | {_key(image) for image in tuned_on}
    if images is not None:
        pairs = _others(pairs_of(images, upscale), seen)
        if not pairs:
            raise QsearchError(f"every image of {images} was searched or tuned on: give --images with others")
        return pairs, images
    left_out = _others(pairs_of(run.config.images, upscale), seen) if run.config.image_limit is not None else []
    if left_out:
        return left_out, f"{run.config.images} beyond the first {run.config.image_limit}"
    return _others(samples.held_out_pairs(upscale), seen), "held-out bundled photographs"


def _others(pairs: Sequence[Pair], seen: set[bytes]) -> list[Pair]:
    return [pair for pair in pairs if _key(pair.lr) not in seen]


def _key(image: NDArray[np.uint8]) -> bytes:
    return bytes(repr(image.shape), "ascii") + image.tobytes()
