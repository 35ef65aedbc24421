"""`qsearch profile` and `qsearch lint`: a table, a page that loads nothing, and predictions called modelled."""

import re
from pathlib import Path

import pytest

from tests.command_line import refuse, succeed
from tests.tiny import TINY


@pytest.fixture(autouse=True)
def own_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qsearch.measure.operations.cache.default_folder", lambda: tmp_path / "qsearch" / "kernels")


def test_profile_and_lint_share_a_table(tmp_path: Path) -> None:
    options = ("--size", "40x24", "--threads", 1, "--seconds", 0.1)
    found = succeed("profile", "--model", TINY, *options, "--out", tmp_path / "out")
    assert Path(found["table"]).is_relative_to(tmp_path / "qsearch" / "operations")
    assert (found["modelled"], found["added"]) == (False, found["operations"])
    assert found["networks"][TINY]["latency_modelled_ms"] > 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "conv 3×3 8→8 + skip" in page
    assert not re.findall(r'(?:src|href)="http', page)
    assert (tmp_path / "out" / "operations.svg").read_text().startswith("<svg xmlns")
    again = succeed("profile", "--model", TINY, *options)
    assert again["added"] == 0
    linted = succeed("lint", TINY, *options)
    assert linted["operations"] == "latency_ms"
    assert {"latency_modelled_ms", "findings"} <= linted.keys()


def test_what_cannot_be_profiled_is_one_line() -> None:
    assert "no target is named 'nothing'" in refuse("profile", "--target", "nothing")
    assert "no model 'nothing'" in refuse("lint", "nothing")
    assert "size" in refuse("profile", "--size", "40")
