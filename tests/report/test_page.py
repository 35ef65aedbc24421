"""The report is one file that needs nothing, says the figures, and survives hostile names."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from qsearch.allocation import Allocation, SiteAllocation
from qsearch.errors import QsearchError
from qsearch.report import Crop, Picture, ReportData, write_report
from qsearch.report.axis import axis_over
from qsearch.search import Budget, History, front, human, read_sensitivity, run_search
from tests.search.toy import OBJECTIVES, SITES, cost, measure

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Collects links and text, and fails when tags do not nest."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []
        self.feed(path.read_text())
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """`<circle …/>` opens nothing."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    return run_search(folder, SITES, measure, cost, OBJECTIVES, Budget(trials=30))


def test_the_page_is_whole_and_loads_nothing(history: History, tmp_path: Path) -> None:
    picture = Picture("winner <b>", np.zeros((8, 8, 3), np.uint8), "31.2 dB")
    data = ReportData(
        title="<script>alert(1)</script>",
        sites=SITES,
        objectives=history.objectives,
        points=history.points,
        conditions={"protocol": "Y, crop 4"},
        references={"float": {"psnr_y_db": 31.2}, "bicubic": {"psnr_y_db": 28.0}},
        winner=history.points[12],
        reason="best PSNR within 800 BitOPs",
        sensitivity=read_sensitivity(history.folder / "sensitivity.jsonl"),
        crops=[Crop("toy", [picture, picture])],
        commands=[("Run it.", "./model in.png out.png")],
    )
    write_report(tmp_path / "report.html", data)
    page = Page(tmp_path / "report.html")
    text = " ".join(page.text)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "<script>alert" not in (tmp_path / "report.html").read_text()
    for point in front(history.points, history.objectives):
        assert human("psnr_y_db", point.metrics["psnr_y_db"]) in text
    for words in ("Y, crop 4", "./model in.png out.png", "W4A4", "conv7", "best PSNR within 800 BitOPs", "Sensitivity"):
        assert words in text


def test_a_bare_search_is_enough(history: History, tmp_path: Path) -> None:
    data = ReportData("toy", SITES, history.objectives, history.points[:1], {})
    write_report(tmp_path / "report.html", data)
    assert "The front" in Page(tmp_path / "report.html").text


def test_an_unwritable_place_is_one_clear_line(history: History, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QsearchError, match="cannot write"):
        write_report(
            tmp_path / "file" / "report.html", ReportData("toy", SITES, history.objectives, history.points, {})
        )


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[3.0], [1.0, 1.0001], [28.1, 31.9], [5e8, 4e10], [0.001, 9000.0]])
def test_axes_have_a_few_ticks_inside(values: list[float], log: bool) -> None:
    axis = axis_over(values, 0, 100, log=log)
    assert len(axis.ticks()) <= 8
    assert all(0 <= axis(value) <= 100 for value in [*values, *axis.ticks()])


def test_piecewise_sites_are_marked_and_described(history: History, tmp_path: Path) -> None:
    first = history.points[0]
    setting = SiteAllocation(bits=4, quantizer="piecewise", inside=0.95, span=31)
    allocation = Allocation(sites={**first.allocation.sites, "conv3.input": setting})
    winner = replace(first, allocation=allocation, polished=True)
    words = "4 bits piecewise, 95.1% inside, outer steps 3 ×, span 29"
    data = ReportData("toy", SITES, history.objectives, [winner], {}, winner=winner, pieces={"conv3.input": words})
    write_report(tmp_path / "report.html", data)
    text = (tmp_path / "report.html").read_text()
    assert f"conv3.input: {words}" in text
    assert "conv3.input: 4 bits piecewise, 95.0% inside, span within 31" in text
    assert "4p" in Page(tmp_path / "report.html").text
    assert "uniform w8a8, fine-tuned" in text
