"""`qsearch finetune`: a folder that `compile` takes, the better of two networks in it, of a model or a run's point."""

import json
from pathlib import Path

import pytest

from qsearch.allocation import Allocation
from qsearch.evaluation import Measurer
from qsearch.images import save_image
from qsearch.quant.finetuned import FineTuned
from qsearch.run import Run
from qsearch.samples import search_pairs
from qsearch.search import load_history
from qsearch.search.history import polish
from tests.command_line import refuse, succeed
from tests.tiny import TINY

QUICK = ("--limit", "1", "--iterations", "3")


def test_a_model_is_finetuned_and_the_better_network_kept(tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    succeed("finetune", TINY, "--out", out, *QUICK)
    summary = json.loads((out / "quantized.json").read_text())
    scores = {"calibrated": summary["calibrated_score"], "fine-tuned": summary["finetuned_score"]}
    assert summary["score"] == scores[summary["kept"]]
    assert summary["score"]["psnr_y_db"] == max(score["psnr_y_db"] for score in scores.values())
    allocation = Allocation.load(out / "allocation.json")
    assert FineTuned.load(out / "finetuned.safetensors").allocation == allocation
    assert {site.quantizer for site in allocation.sites.values()} == {"uniform", "piecewise"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tuned"], "no checkpoint is left"
    assert "not empty" in refuse("finetune", TINY, "--out", out, *QUICK)


def test_the_point_of_a_run_is_finetuned(tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed("search", TINY, "--out", run, "--trials", 6, "--limit", 1, "--quantizers", "both")
    assert "no point" in refuse("finetune", run, "--out", tmp_path / "tuned", *QUICK)
    before = load_history(run / "search").points
    succeed("finetune", run, "--point", 1, "--out", tmp_path / "tuned", *QUICK)
    summary = json.loads((tmp_path / "tuned" / "quantized.json").read_text())
    assert summary["judged_on"] == "samples beyond the first 1", "what the search left out"
    assert load_history(run / "search").points == before, "a folder of one's own changes no point"
    assert "was searched or tuned on" in refuse("finetune", run, "--point", 1, "--images", one_seen(tmp_path), *QUICK)


def one_seen(tmp_path: Path) -> Path:
    """A folder with nothing but the image that a search with `--limit 1` has seen."""
    (tmp_path / "seen").mkdir()
    save_image(tmp_path / "seen" / "a.png", search_pairs(2, 1)[0].hr)
    return tmp_path / "seen"


def test_a_better_network_takes_the_place_of_its_point(tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed("search", "abpn_x3", "--out", run, "--trials", 8, "--limit", 1)
    before = next(p for p in load_history(run / "search").points if p.origin == "uniform w4a4")
    told = succeed("finetune", run, "--point", before.number, "--limit", 2, "--iterations", 40)
    after = load_history(run / "search").points[before.number]
    summary = json.loads((run / "polished" / str(before.number) / "quantized.json").read_text())
    assert summary["kept"] == told["kept"] == "fine-tuned"
    assert summary["finetuned_score"]["psnr_y_db"] > summary["calibrated_score"]["psnr_y_db"]
    assert after.polished
    assert (after.origin, after.allocation) == (before.origin, before.allocation)
    assert after.metrics["psnr_y_db"] == told["point"]["psnr_y_db"] != before.metrics["psnr_y_db"]
    assert after.metrics["bitops"] == before.metrics["bitops"]
    assert "fine-tuned already" in refuse("finetune", run, "--point", before.number)
    succeed("search", "abpn_x3", "--out", run, "--trials", 9, "--limit", 1)
    assert load_history(run / "search").points[before.number] == after


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of a random network, on one image."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    succeed("search", TINY, "--out", folder, "--trials", 5, "--limit", 1)
    return folder


def test_a_network_that_is_no_better_leaves_its_point(run: Path) -> None:
    before = load_history(run / "search").points
    told = succeed("finetune", run, "--point", 0, "--limit", 1, "--iterations", 0, "--fixed-weights")
    assert told["kept"] == "calibrated", "nothing was trained"
    assert load_history(run / "search").points == before


def test_what_is_compiled_of_a_polished_point_is_the_fine_tuned_network(run: Path, tmp_path: Path) -> None:
    point = load_history(run / "search").points[4]
    succeed("finetune", run, "--point", point.number, *QUICK)
    polish(run / "search", point.number, point.metrics)  # as if it had been better on this random network
    opened = Run.open(run)
    tuned = opened.finetuned(load_history(run / "search").points[4])
    expected = Measurer(opened.network(), opened.pairs)(point.allocation, tuned)
    compiled = succeed("compile", run, "--point", point.number, "--out", tmp_path / "artefact")
    assert compiled["psnr_y_db"] == pytest.approx(expected["psnr_y_db"], abs=1e-6)
    assert expected["psnr_y_db"] != point.metrics["psnr_y_db"]


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--quantizer", "square"), "square"), (("--calibration", "nowhere"), "nowhere"), (("--bits", "w4"), "w4a8")],
)
def test_mistakes_are_one_line(tmp_path: Path, options: tuple[str, str], words: str) -> None:
    assert words in refuse("finetune", TINY, "--out", tmp_path / "tuned", *QUICK, *options)
