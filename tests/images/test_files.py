"""Every picture file becomes uint8 RGB or one clear line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qsearch.errors import QsearchError
from qsearch.images import image_files, read_image, save_image

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_files_come_back_as_they_were(tmp_path: Path, suffix: str) -> None:
    save_image(tmp_path / f"a{suffix}", COLOURS)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), COLOURS)


def test_gray_and_palette_become_rgb(tmp_path: Path) -> None:
    gray = COLOURS[:, :, 0]
    save_image(tmp_path / "gray.png", gray)
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png"), np.repeat(gray[:, :, None], 3, 2))
    few = Image.fromarray(COLOURS // 128 * 255).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    few.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), np.array(few.convert("RGB")))


def test_sixteen_bits_are_rounded_to_eight(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    levels[0, 1] += 100
    Image.fromarray(levels).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[:, :, 2], np.arange(256).reshape(16, 16))


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path: Path) -> None:
    alpha = np.full((12, 17, 1), 255, np.uint8)
    Image.fromarray(np.concatenate([COLOURS, alpha], 2)).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), COLOURS)
    alpha[3, 4] = 200
    Image.fromarray(np.concatenate([COLOURS, alpha], 2)).save(tmp_path / "glass.png")
    with pytest.raises(QsearchError, match=r"glass\.png has transparent pixels"):
        read_image(tmp_path / "glass.png")


def test_a_rotated_photograph_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    Image.fromarray(COLOURS).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(COLOURS, -1))


@pytest.mark.parametrize("kept", [0, 8, 60, 400])
def test_damaged_files_give_one_line(tmp_path: Path, kept: int) -> None:
    save_image(tmp_path / "whole.png", COLOURS)
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:kept])
    with pytest.raises(QsearchError, match=r"cut\.png") as caught:
        read_image(tmp_path / "cut.png")
    assert "\n" not in str(caught.value)


def test_other_bad_files(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(QsearchError, match=r"text\.png is not an image"):
        read_image(tmp_path / "text.png")
    with pytest.raises(QsearchError, match="does not exist"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(QsearchError, match="unreadable"):
        read_image(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(QsearchError, match="no fixed range"):
        read_image(tmp_path / "float.tiff")


def test_saving_names_the_unknown_format_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match=r"\.xyz is no known format"):
        save_image(tmp_path / "a.xyz", COLOURS)
    assert list(tmp_path.iterdir()) == []


def test_listing_a_folder(tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match="holds no image"):
        image_files(tmp_path)
    for name in ("b.png", "a.JPG", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert [path.name for path in image_files(tmp_path)] == ["a.JPG", "b.png"]
    with pytest.raises(QsearchError, match="does not exist"):
        image_files(tmp_path / "absent")
