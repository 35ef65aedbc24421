"""The written protocol, against scikit-image and against published rows."""

from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from qsearch.errors import QsearchError
from qsearch.images import iterate_pairs, resize_bicubic
from qsearch.metrics import Protocol, evaluate_pair, luma, mean_quality, psnr, ssim

RANDOM = np.random.default_rng(0)
ORIGINAL = RANDOM.integers(0, 256, (48, 61, 3), dtype=np.uint8)
RESULT = np.clip(ORIGINAL + RANDOM.integers(-9, 10, ORIGINAL.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("colour", ["y", "rgb"])
@pytest.mark.parametrize("crop", [0, 3])
def test_agrees_with_scikit_image(colour: str, crop: int) -> None:
    protocol = Protocol("rgb" if colour == "rgb" else "y", crop)
    inner = np.s_[crop : 48 - crop, crop : 61 - crop]
    a, b = (x[inner].astype(float) if colour == "rgb" else luma(x)[inner] for x in (RESULT, ORIGINAL))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = structural_similarity(a, b, channel_axis=2 if colour == "rgb" else None, **options)
    assert ssim(RESULT, ORIGINAL, protocol) == pytest.approx(expected, abs=1e-9)
    assert psnr(RESULT, ORIGINAL, protocol) == pytest.approx(peak_signal_noise_ratio(b, a, data_range=255), abs=1e-9)


def test_luma_spans_16_to_235() -> None:
    assert luma(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)) == pytest.approx(np.array([[16.0, 235.0]]))


def test_equal_images_are_perfect() -> None:
    quality = evaluate_pair(ORIGINAL, ORIGINAL, Protocol())
    assert (quality.psnr_db, quality.ssim) == (float("inf"), pytest.approx(1.0))


def test_bicubic_rows_of_b100(shared_data: Path) -> None:
    protocol = Protocol("y", crop=4, lr_source="MATLAB bicubic")
    pairs = iterate_pairs(shared_data / "benchmarks" / "B100", 4)
    mean = mean_quality(evaluate_pair(resize_bicubic(pair.lr, 4), pair.hr, protocol) for pair in pairs)
    assert mean.psnr_db == pytest.approx(25.963, abs=0.01)
    assert mean.ssim == pytest.approx(0.668, abs=0.001)


def test_the_protocol_reads_as_one_line() -> None:
    text = str(Protocol("y", 4, "as stored"))
    assert text == "BT.601 luma, not rounded; output rounded to uint8; 4 px cropped; LR as stored"


def test_images_that_cannot_be_compared() -> None:
    with pytest.raises(QsearchError, match="cannot compare"):
        psnr(ORIGINAL, ORIGINAL[:-1], Protocol())
    with pytest.raises(QsearchError, match="nothing left after a crop of 24 px"):
        psnr(ORIGINAL, ORIGINAL, Protocol(crop=24))
    with pytest.raises(QsearchError, match="at least 11x11"):
        ssim(ORIGINAL, ORIGINAL, Protocol(crop=20))
    with pytest.raises(TypeError, match="rounded to uint8"):
        psnr(ORIGINAL.astype(float), ORIGINAL, Protocol())  # type: ignore[arg-type]
    with pytest.raises(QsearchError, match="no image to average"):
        mean_quality([])
