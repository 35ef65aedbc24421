"""Choice among networks: one study each, one front, and a selection for the size of the output that is wanted."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from qsearch.allocation import Allocation
from qsearch.commands.compile import compile_source
from qsearch.commands.models import chosen_run, run_folders, search_models, split
from qsearch.commands.select import at_resolution, parse_resolution, select_point
from qsearch.compile import kernels
from qsearch.compile.manifest import read_manifest
from qsearch.errors import QsearchError
from qsearch.files import read_json
from qsearch.measure.operations import OperationTable
from qsearch.measure.profiling import layers_of
from qsearch.models import build, save_weights
from qsearch.run import Run, RunConfig
from qsearch.search import History, load_history, parse_budget
from qsearch.target import load_target
from tests.command_line import refuse
from tests.measure.test_profiling import filled
from tests.tiny import TINY

CONSOLE = Console(stderr=True)
CONFIG = RunConfig("", "samples", "samples", "psnr_y_db,bitops", (24, 32), image_limit=1, calibration_limit=1)
NETWORKS = [TINY, "edsr_r1f4_x2"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of two networks, four trials together; the weights of the second lie beside it."""
    folder = tmp_path_factory.mktemp("models")
    save_weights(folder / "trained.safetensors", build("edsr_r1f4_x2").module, {})
    found = search_models(NETWORKS, folder, folder / "run", CONFIG, "4", CONSOLE)
    assert found["trials"] == 4
    return folder / "run"


def test_one_study_each_and_one_front(searched: Path) -> None:
    runs = [Run.open(folder) for folder in run_folders([searched])]
    assert [run.folder.name for run in runs] == ["network", "edsr_r1f4_x2"]
    rows = read_json(searched / "front.json")["points"]
    assert {row["network"] for row in rows} <= {run.folder.name for run in runs}
    points = {run.folder.name: {p.number: p for p in load_history(run.folder / "search").points} for run in runs}
    assert all(points[row["network"]][row["point"]].metrics == row["metrics"] for row in rows)
    best = max(point.metrics["psnr_y_db"] for found in points.values() for point in found.values())
    assert max(row["metrics"]["psnr_y_db"] for row in rows) == best


def test_a_search_that_was_killed_goes_on_where_it_was(searched: Path, tmp_path: Path) -> None:
    """As after a kill before the second network began: the first is not searched again."""
    shutil.copytree(searched, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "edsr_r1f4_x2")
    (tmp_path / "run" / "front.json").unlink()
    assert [folder.name for folder in run_folders([tmp_path / "run"])] == ["network"]
    before = (tmp_path / "run/network/search/optuna.journal").read_bytes()
    found = search_models(NETWORKS, searched.parent, tmp_path / "run", CONFIG, "4", CONSOLE)
    assert found["trials"] == 4
    assert (tmp_path / "run/network/search/optuna.journal").read_bytes().startswith(before)
    with pytest.raises(QsearchError, match="other networks"):
        search_models([TINY], None, tmp_path / "run", CONFIG, "4", CONSOLE)


def test_nothing_is_written_for_networks_that_cannot_be_compared(tmp_path: Path) -> None:
    for models, words in (
        (["abpn_x3", TINY], "different upscales"),
        ([TINY, "edsr_r1f4_x2"], "without trained weights"),
        ([TINY, TINY], "twice"),
        ([], "no network"),
    ):
        with pytest.raises(QsearchError, match=words):
            search_models(models, None, tmp_path / "run", CONFIG, "4", CONSOLE)
    assert not (tmp_path / "run").exists()


def test_a_search_is_of_one_model_or_of_several(tmp_path: Path) -> None:
    for given in ((), (TINY, "--models", TINY)):
        words = refuse("search", *given, "--out", tmp_path / "run", "--trials", 2)
        assert "either a MODEL or --models" in words


def test_budgets_are_shared() -> None:
    assert split(parse_budget("7"), 3) == ["3", "2", "2"]
    assert split(parse_budget("1m"), 4) == ["15.000s"] * 4
    with pytest.raises(QsearchError, match="too few"):
        split(parse_budget("2"), 3)


def test_the_choice_names_network_allocation_and_artefact(searched: Path, tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match="qsearch select"):
        chosen_run(searched)
    found = select_point([searched], {"max_bitops": 1e15}, CONSOLE, artefact=tmp_path / "artefact")
    assert Path(found["run"]) == chosen_run(searched)
    assert found["model"] == Path(found["run"]).name
    point = {p.number: p for p in load_history(Path(found["run"]) / "search").points}[found["point"]]
    assert Allocation.load(Path(found["allocation"])) == point.allocation
    assert read_manifest(found["artefact"])["upscale"] == 2
    with pytest.raises(QsearchError, match="not empty"):
        compile_source(searched, tmp_path / "artefact", None, None, None, CONSOLE)


def timed(history: History) -> History:
    """The history as if every trial had taken 2 ms."""
    return replace(history, points=[replace(p, metrics={**p.metrics, "latency_ms": 2.0}) for p in history.points])


def test_latency_for_an_output_is_measured_scaled_or_from_the_table(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qsearch.measure.profiling.choice_for", lambda target: kernels.plain)
    runs = [Run.open(folder) for folder in run_folders([searched])]
    bare = [load_history(run.folder / "search") for run in runs]
    histories = [timed(history) for history in bare]
    empty, full = OperationTable("host", "", 1, False, {}), _table_of(runs, (48, 64))
    monkeypatch.setattr("qsearch.commands.select.open_table", lambda *_: empty)
    with pytest.raises(QsearchError, match="qsearch profile --model"):
        at_resolution(runs, bare, (96, 128))
    assert at_resolution(runs, histories, (48, 64)) == (histories, "as measured")
    scaled, source = at_resolution(runs, histories, (96, 128))
    assert "scaled by the pixels" in source
    assert {p.metrics["latency_modelled_ms"] for history in scaled for p in history.points} == {8.0}
    assert all("latency_ms" not in p.metrics for history in scaled for p in history.points)
    monkeypatch.setattr("qsearch.commands.select.open_table", lambda *_: full)
    predicted, source = at_resolution(runs, histories, (96, 128))
    assert source == "predicted from the operation table"
    for run, history in zip(runs, predicted, strict=True):
        network = run.network()
        for point in history.points:
            _, layers = layers_of(network.program(point.allocation), load_target("host"), (48, 64))
            assert point.metrics["latency_modelled_ms"] == pytest.approx(len(layers))


def _table_of(runs: list[Run], size: tuple[int, int]) -> OperationTable:
    """Every operation of both fronts takes 1 ms."""
    target = load_target("host")
    layers = []
    for run in runs:
        network = run.network()
        for point in load_history(run.folder / "search").points:
            layers += layers_of(network.program(point.allocation), target, size)[1]
    return filled(layers, target, {})


@pytest.mark.parametrize(("text", "size"), [("1080p", (1080, 1920)), ("4K", (2160, 3840)), ("1000x600", (600, 1000))])
def test_resolutions_are_of_the_output(text: str, size: tuple[int, int]) -> None:
    assert parse_resolution(text) == size


@pytest.mark.parametrize("text", ["1080", "0x5", "5x0", "x", "hd"])
def test_no_resolution(text: str) -> None:
    with pytest.raises(QsearchError, match="width×height"):
        parse_resolution(text)
