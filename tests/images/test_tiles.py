"""Tiles: the outputs partition the image, and every output pixel has its halo."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qsearch.errors import QsearchError
from qsearch.images import Box, tiles

sides = st.integers(1, 70)


@given(height=sides, width=sides, halo=st.integers(0, 6), extra=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_outputs_partition_the_image_and_keep_their_halo(
    height: int, width: int, halo: int, extra: tuple[int, int]
) -> None:
    tile = (2 * halo + extra[0], 2 * halo + extra[1])
    written = np.zeros((height, width), int)
    for part in tiles(height, width, tile, halo):
        written[part.output.slices] += 1
        box, out = part.input, part.output
        assert box.top >= 0
        assert box.left >= 0
        assert box.bottom <= height
        assert box.right <= width
        assert box.bottom - box.top == min(tile[0], height)
        assert box.right - box.left == min(tile[1], width)
        assert out.top - box.top >= (halo if box.top > 0 else 0)
        assert out.left - box.left >= (halo if box.left > 0 else 0)
        assert box.bottom - out.bottom >= (halo if box.bottom < height else 0)
        assert box.right - out.right >= (halo if box.right < width else 0)
    assert np.all(written == 1)


def test_a_tiled_convolution_equals_the_untiled_one() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 5, padding=2), nn.Conv2d(3, 4, 3, padding=1), nn.PixelShuffle(2)).double()
    image = torch.rand(1, 1, 37, 29, dtype=torch.float64)
    whole, tiled = net(image), torch.zeros(1, 1, 74, 58, dtype=torch.float64)
    for part in tiles(37, 29, (16, 12), halo=3):
        result = net(image[:, :, *part.input.slices])
        inner = part.output.within(part.input).scaled(2)
        tiled[:, :, *part.output.scaled(2).slices] = result[:, :, *inner.slices]
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)


def test_boxes_scale_and_move() -> None:
    assert Box(1, 2, 3, 5).scaled(3) == Box(3, 6, 9, 15)
    assert Box(4, 5, 6, 7).within(Box(1, 2, 8, 9)) == Box(3, 3, 5, 5)


def test_a_tile_without_room_is_refused() -> None:
    with pytest.raises(QsearchError, match="use more than 8"):
        list(tiles(100, 100, (8, 20), 4))
    with pytest.raises(QsearchError, match="cannot tile"):
        list(tiles(0, 5, (8, 8), 1))
