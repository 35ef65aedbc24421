"""Patches: pairs that belong together, the same for the same seed and iteration."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qsearch.images import downscale, save_image
from qsearch.training import Patches


@pytest.fixture
def patches(tmp_path: Path) -> Patches:
    """One picture whose every block of 3x3 pixels is constant, and one that is too small."""
    blocks = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    save_image(tmp_path / "blocks.png", blocks.repeat(3, 0).repeat(3, 1))
    save_image(tmp_path / "small.png", np.zeros((20, 90, 3), np.uint8))
    return Patches([tmp_path], upscale=3, white=255.0, patch=8, batch=16, seed=7)


def test_small_images_are_skipped(patches: Patches) -> None:
    assert (len(patches.hr), patches.skipped) == (1, 1)


def test_both_halves_show_the_same_place_turned_the_same_way(patches: Patches) -> None:
    lr, hr = patches.batch_of(0)
    assert (lr.shape, hr.shape, hr.dtype) == ((16, 3, 8, 8), (16, 3, 24, 24), torch.float32)
    for small, large in zip(lr, hr, strict=True):
        pixels = large.permute(1, 2, 0).to(torch.uint8).numpy()
        # Away from the border of the patch its own bicubic sees the same neighbours as the whole image's did.
        inner = downscale(np.ascontiguousarray(pixels), 3)[2:-2, 2:-2]
        found = small.permute(1, 2, 0).numpy()[2:-2, 2:-2]
        assert np.abs(inner - found).max() <= 1  # the order of the two directions turns with the patch


def test_a_batch_is_a_function_of_seed_and_iteration(patches: Patches) -> None:
    first, again, other = patches.batch_of(5)[0], patches.batch_of(5)[0], patches.batch_of(6)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
