"""The front and the crops as files of their own can be opened by anything."""

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from qsearch.errors import QsearchError
from qsearch.images import read_image
from qsearch.report import Crop, Picture, ReportData, save_crop, save_front
from qsearch.search import Budget, parse_objectives, run_search
from tests.search.toy import SITES, cost, measure


def test_the_front_is_an_svg_of_its_own(tmp_path: Path) -> None:
    objectives = parse_objectives("psnr_y_db,bitops")
    history = run_search(tmp_path / "run", SITES, measure, cost, objectives, Budget(trials=12))
    save_front(tmp_path / "front.svg", ReportData("toy", SITES, objectives, history.points, {}), "bitops")
    text = (tmp_path / "front.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert not re.search(r"var\(--", text), "the colours of the page are not there"


def test_a_crop_shows_every_picture_enlarged(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), 200, np.uint8)
    save_crop(tmp_path / "crop.png", Crop("flat", [Picture("a", pixels), Picture("b", pixels, "30 dB")]))
    sheet = read_image(tmp_path / "crop.png")
    assert sheet.shape == (24 + 34, 2 * 24 + 8, 3)
    assert (sheet[:24, :24] == 200).all()


def test_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QsearchError, match="cannot write"):
        save_crop(tmp_path / "file" / "crop.png", Crop("flat", [Picture("a", np.zeros((4, 4, 3), np.uint8))]))
