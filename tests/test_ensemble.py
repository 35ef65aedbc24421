"""Self-ensemble: eight turns, each undone, averaged."""

import numpy as np
import pytest
from numpy.typing import NDArray

from qsearch.ensemble import TURNS, self_ensemble, turned, turned_back
from tests.command_line import succeed
from tests.small_networks import random_images
from tests.tiny import TINY

IMAGE = random_images(1, 20, 32)[0]


def repeated(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image.repeat(2, 0).repeat(2, 1)


def test_the_turns_are_eight_and_each_is_undone() -> None:
    assert len({turned(IMAGE, turn).tobytes() for turn in range(TURNS)}) == 8
    for turn in range(TURNS):
        assert np.array_equal(turned_back(turned(IMAGE, turn), turn), IMAGE)


def test_a_symmetric_upscaler_is_left_as_it_is() -> None:
    assert np.array_equal(self_ensemble(repeated)(IMAGE), repeated(IMAGE))


def test_it_is_the_rounded_mean() -> None:
    numbers = iter(range(8))
    constant = self_ensemble(lambda image: np.full_like(repeated(image), next(numbers)))
    assert (constant(IMAGE) == 4).all()  # 3.5, half to even


@pytest.mark.parametrize("ensemble", [True, False])
def test_eval_offers_it(ensemble: bool) -> None:
    options = ("--self-ensemble",) if ensemble else ()
    done = succeed("eval", TINY, "--limit", 1, *options)
    assert done["self_ensemble"] is ensemble
    assert done["psnr_y_db"] > 0
