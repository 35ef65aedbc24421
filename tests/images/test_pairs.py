"""Pairs from benchmark folders and from plain pictures."""

from pathlib import Path

import numpy as np
import pytest

from qsearch.errors import QsearchError
from qsearch.images import downscale, mod_crop, read_lr_images, read_pairs, save_image

PICTURE = np.random.default_rng(0).integers(0, 256, (31, 26, 3), dtype=np.uint8)


def test_benchmark_files_are_taken_as_stored(tmp_path: Path) -> None:
    stored = np.full((10, 8, 3), 7, np.uint8)
    save_image(tmp_path / "img_001_SRF_3_HR.png", PICTURE)
    save_image(tmp_path / "img_001_SRF_3_LR.png", stored)
    (pair,) = read_pairs(tmp_path, 3)
    assert (pair.name, pair.lr_source, pair.hr.shape) == ("img_001_SRF_3_HR", "as stored", (30, 24, 3))
    np.testing.assert_array_equal(pair.lr, stored)
    (made,) = read_pairs(tmp_path, 2)  # the stored file is for another upscale
    assert made.lr_source == "MATLAB bicubic"
    np.testing.assert_array_equal(made.lr, downscale(PICTURE[:30], 2))


def test_plain_pictures_are_cropped_and_shrunk(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", "c.png"):
        save_image(tmp_path / name, PICTURE)
    pairs = read_pairs(tmp_path, 4, limit=2)
    assert [pair.name for pair in pairs] == ["a", "b"]
    np.testing.assert_array_equal(pairs[0].hr, mod_crop(PICTURE, 4))
    assert pairs[0].lr.shape == (7, 6, 3)


def test_an_lr_file_of_the_wrong_size_is_named(tmp_path: Path) -> None:
    save_image(tmp_path / "x_SRF_2_HR.png", PICTURE)
    save_image(tmp_path / "x_SRF_2_LR.png", PICTURE)
    with pytest.raises(QsearchError, match=r"x_SRF_2_LR\.png is 26x31, which is not 1/2 of"):
        read_pairs(tmp_path, 2)


def test_low_resolution_images_for_calibration(tmp_path: Path) -> None:
    save_image(tmp_path / "plain" / "p.png", PICTURE)
    save_image(tmp_path / "bench" / "x_SRF_2_HR.png", PICTURE)
    save_image(tmp_path / "bench" / "x_SRF_2_LR.png", PICTURE[:15, :13])
    shapes = [image.shape for image in read_lr_images([tmp_path / "plain", tmp_path / "bench"])]
    assert shapes == [(31, 26, 3), (15, 13, 3)]
    assert len(read_lr_images(tmp_path / "plain", limit=1)) == 1


def test_folders_without_usable_originals(tmp_path: Path) -> None:
    save_image(tmp_path / "lr" / "x_SRF_2_LR.png", PICTURE)
    with pytest.raises(QsearchError, match="low-resolution images only"):
        read_pairs(tmp_path / "lr", 2)
    save_image(tmp_path / "tiny" / "t.png", PICTURE[:3, :3])
    with pytest.raises(QsearchError, match="smaller than the upscale 4"):
        read_pairs(tmp_path / "tiny", 4)
