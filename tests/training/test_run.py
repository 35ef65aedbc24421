"""Training a tiny network on small pictures: it learns, survives a kill, and stops when it diverges."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from qsearch.errors import QsearchError
from qsearch.images import resize_bicubic, save_image
from qsearch.models import LoadedModel, build, load, read_metadata, read_state_dict
from qsearch.training import TrainingSettings, train
from qsearch.training.run import CHECKPOINT, WEIGHTS

SETTINGS = TrainingSettings(
    iterations=60, batch=4, patch=8, learning_rate=3e-3, warmup=5, validate_every=20, checkpoint_every=10
)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Four smooth pictures with some detail."""
    random = np.random.default_rng(0)
    for index in range(4):
        coarse = random.integers(0, 256, (7, 8, 3), dtype=np.uint8)
        save_image(tmp_path / "photographs" / f"{index}.png", resize_bicubic(coarse, 8))
    return tmp_path / "photographs"


def same_weights(a: Path, b: Path) -> bool:
    first, second = read_state_dict(a), read_state_dict(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_it_learns_and_records_how(photographs: Path, tmp_path: Path) -> None:
    model = build("abpn_f8_x2")
    model.module.convs[-1].bias.fill_(25.0)  # far too bright: a bias has to move by many levels
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    result = train(model, [photographs], tmp_path / "run", SETTINGS, photographs)
    assert result.psnr_db > 30
    assert "MATLAB bicubic" in result.protocol
    assert (load(result.weights).family, load(result.weights).upscale) == ("abpn", 2)
    recorded = read_metadata(result.weights)["training"]
    assert (recorded["iterations"], recorded["images"]) == (60, ["photographs"])
    assert recorded["validation_psnr_y_db"] == pytest.approx(result.psnr_db, abs=1e-3)
    assert all(torch.equal(before[key], value) for key, value in model.module.state_dict().items())


def test_batch_normalisation_is_trained(photographs: Path, tmp_path: Path) -> None:
    model = build("srresnet_r1_x2")
    settings = TrainingSettings(iterations=2, batch=2, patch=8)
    state = read_state_dict(train(model, [photographs], tmp_path / "run", settings).weights)
    assert not torch.equal(state["tail_bn.running_mean"], model.module.state_dict()["tail_bn.running_mean"])


SCRIPT = """
import json, sys, torch
from qsearch.models import build
from qsearch.training import TrainingSettings, train
torch.set_num_threads(1)
photographs, output, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
train(build("abpn_f8_x2"), [photographs], output, TrainingSettings(**settings), photographs)
"""


def test_a_killed_run_continues_to_the_same_weights(photographs: Path, tmp_path: Path) -> None:
    settings = {**vars(SETTINGS), "iterations": 400, "checkpoint_every": 7}
    train(build("abpn_f8_x2"), [photographs], tmp_path / "whole", TrainingSettings(**settings), photographs)
    checkpoint = tmp_path / "killed" / CHECKPOINT
    command = [sys.executable, "-c", SCRIPT, str(photographs), str(checkpoint.parent), json.dumps(settings)]
    process = subprocess.Popen(command)
    while process.poll() is None and not (checkpoint.exists() and iteration(checkpoint) >= 14):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 14 <= iteration(checkpoint) < 400
    subprocess.run(command, check=True)
    assert same_weights(tmp_path / "whole" / WEIGHTS, tmp_path / "killed" / WEIGHTS)
    assert same_content(tmp_path / "whole" / CHECKPOINT, checkpoint)


def iteration(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["state"]["iteration"])


def same_content(a: Path, b: Path) -> bool:
    first, second = (torch.load(path, weights_only=True)["module"] for path in (a, b))
    return all(torch.equal(first[key], second[key]) for key in first)


def test_a_finished_run_is_not_repeated(photographs: Path, tmp_path: Path) -> None:
    first = train(build("abpn_f8_x2"), [photographs], tmp_path / "run", SETTINGS, photographs)
    written = first.weights.stat().st_mtime_ns
    assert train(build("abpn_f8_x2"), [photographs], tmp_path / "run", SETTINGS, photographs) == first
    assert first.weights.stat().st_mtime_ns == written


def test_a_folder_of_another_run_is_refused(photographs: Path, tmp_path: Path) -> None:
    train(build("abpn_f8_x2"), [photographs], tmp_path / "run", SETTINGS)
    other = TrainingSettings(**{**vars(SETTINGS), "seed": 1})
    with pytest.raises(QsearchError, match="was made with another seed: give the same, or another output folder"):
        train(build("abpn_f8_x2"), [photographs], tmp_path / "run", other)
    with pytest.raises(QsearchError, match="another model"):
        train(build("abpn_f4_x2"), [photographs], tmp_path / "run", SETTINGS)
    with pytest.raises(QsearchError, match="exists and is not empty"):
        train(build("abpn_f8_x2"), [photographs], photographs, SETTINGS)


class Unstable(torch.nn.Module):
    """Gives NaN from its 15th training step on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        return (
            x.repeat_interleave(2, 2).repeat_interleave(2, 3) * self.weight * (1.0 if self.steps < 15 else float("nan"))
        )


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(photographs: Path, tmp_path: Path) -> None:
    model = LoadedModel(Unstable(), "unstable", "custom", 2, 1.0)
    with pytest.raises(
        QsearchError, match=r"the loss became nan at iteration 14; .*checkpoint\.pt keeps the last good"
    ):
        train(model, [photographs], tmp_path / "run", SETTINGS)
    assert iteration(tmp_path / "run" / CHECKPOINT) == 10


def test_weights_ruined_by_a_step_are_not_kept(photographs: Path, tmp_path: Path) -> None:
    class Square(torch.nn.Module):
        """A finite loss with an infinite gradient, from the 12th step on."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))
            self.steps = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.steps += 1
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3) + (
                self.weight.sqrt() if self.steps >= 12 else self.weight * 0
            )

    settings = TrainingSettings(**{**vars(SETTINGS), "iterations": 12, "validate_every": 100, "checkpoint_every": 4})
    with pytest.raises(QsearchError, match="weight became NaN or infinite at iteration 12"):
        train(LoadedModel(Square(), "square", "custom", 2, 1.0), [photographs], tmp_path / "run", settings)
    assert iteration(tmp_path / "run" / CHECKPOINT) == 8


def test_images_that_are_missing_or_too_small(photographs: Path, tmp_path: Path) -> None:
    large = TrainingSettings(**{**vars(SETTINGS), "patch": 40})
    with pytest.raises(QsearchError, match="none of the 4 training images has sides of 80 pixels"):
        train(build("abpn_f8_x2"), [photographs], tmp_path / "run", large)
    with pytest.raises(QsearchError, match="does not exist"):
        train(build("abpn_f8_x2"), [tmp_path / "absent"], tmp_path / "run", SETTINGS)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "change", [{"iterations": 0}, {"batch": -1}, {"learning_rate": float("nan")}, {"average": 1.0}]
)
def test_impossible_settings_are_named(change: dict[str, float]) -> None:
    with pytest.raises(QsearchError, match=next(iter(change))):
        TrainingSettings(**{**vars(SETTINGS), **change})
