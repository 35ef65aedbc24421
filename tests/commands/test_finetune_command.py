"""`qsearch finetune`: a folder that `compile` takes, the better of two networks in it, of a model or a run's point."""

import json
from pathlib import Path

import pytest

from qsearch.allocation import Allocation
from qsearch.quant.finetuned import FineTuned
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
    succeed("search", TINY, "--out", run, "--trials", 6, "--limit", 1)
    assert "no point" in refuse("finetune", run, "--out", tmp_path / "tuned", *QUICK)
    succeed("finetune", run, "--point", 1, "--out", tmp_path / "tuned", *QUICK)
    assert (tmp_path / "tuned" / "finetuned.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--quantizer", "square"), "square"), (("--calibration", "nowhere"), "nowhere"), (("--bits", "w4"), "w4a8")],
)
def test_mistakes_are_one_line(tmp_path: Path, options: tuple[str, str], words: str) -> None:
    assert words in refuse("finetune", TINY, "--out", tmp_path / "tuned", *QUICK, *options)
