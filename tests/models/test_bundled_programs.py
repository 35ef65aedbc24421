"""The integer network that comes with the package: it compiles, and is as good as its float form."""

from pathlib import Path

import pytest

from qsearch.errors import QsearchError
from qsearch.models import bundled_programs, load
from tests.command_line import refuse, succeed

NAME = "abpn_x3_int8"


def test_it_scores_as_its_float_form_does() -> None:
    integer, floating = (succeed("eval", name, "--limit", 2)["psnr_y_db"] for name in (NAME, "abpn_x3"))
    assert abs(integer - floating) < 0.05


def test_its_name_compiles_and_verifies(tmp_path: Path) -> None:
    made = succeed("compile", NAME, "--out", tmp_path / "artefact")
    assert made["psnr_y_db"] > 33
    assert succeed("verify", tmp_path / "artefact")["ok"]


def test_it_is_no_float_network(tmp_path: Path) -> None:
    assert list(bundled_programs()) == [NAME]
    with pytest.raises(QsearchError, match=r"is an integer network: give it to `qsearch compile` or `qsearch eval`"):
        load(NAME)
    assert NAME in refuse("compile", tmp_path, "--out", tmp_path / "artefact")
