"""MATLAB's bicubic, down to the last bit."""

from pathlib import Path

import numpy as np
import pytest

from qsearch.errors import QsearchError
from qsearch.images import downscale, image_files, read_image, resize_bicubic


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("folder", ["Set5", "Set14"])
def test_reproduces_the_stored_low_resolution_files_bit_for_bit(shared_data: Path, folder: str, upscale: int) -> None:
    originals = [path for path in image_files(shared_data / "benchmarks" / folder / f"x{upscale}") if "HR" in path.name]
    for path in originals:
        stored = read_image(path.with_name(path.name.replace("HR", "LR")))
        np.testing.assert_array_equal(downscale(read_image(path), upscale), stored, err_msg=path.name)


def test_keeps_constant_images_and_gives_matlab_sizes() -> None:
    image = np.full((7, 10, 3), 137, np.uint8)
    assert resize_bicubic(image, 1, 3).shape == (3, 4, 3)  # ceil, as in MATLAB
    assert resize_bicubic(image, 3).shape == (21, 30, 3)
    assert np.all(resize_bicubic(image, 5, 2) == 137)


def test_a_factor_of_one_is_the_identity() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_bicubic(image, 1), image)


def test_upsampling_follows_keys_kernel() -> None:
    # At half-pixel positions of a doubled image the weights are those of Keys' cubic at 0.25, 0.75, 1.25 and 1.75.
    row = np.array([[10, 20, 200, 40, 50, 60]], np.uint8)
    weights = np.array([-0.0234375, 0.2265625, 0.8671875, -0.0703125])
    assert resize_bicubic(row, 2)[0, 4] == np.floor(weights @ [10, 20, 200, 40] + 0.5)


def test_refuses_sizes_that_do_not_divide() -> None:
    with pytest.raises(QsearchError, match="10x7 image is not divisible by 3"):
        downscale(np.zeros((7, 10, 3), np.uint8), 3)
    with pytest.raises(QsearchError, match="positive"):
        resize_bicubic(np.zeros((7, 10, 3), np.uint8), 0)
