"""Quantization-aware training: what it trains is what ships, it survives a kill, and it stops when it diverges."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from qsearch.allocation import Allocation, uniform
from qsearch.commands.search import selected_point
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.images import read_image, read_lr_images, read_pairs, resize_bicubic, save_image
from qsearch.metrics import Protocol, psnr
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.quant.finetuned import FineTuned
from qsearch.run import Run
from qsearch.training import QuantizedSettings, train_quantized
from qsearch.training.checkpoint import CHECKPOINT
from qsearch.training.qat import COMPARED, TRAINED
from tests.command_line import refuse, succeed
from tests.tiny import TINY

SETTINGS = QuantizedSettings(iterations=30, batch=2, patch=8, warmup=3, validate_every=10, checkpoint_every=10)


def changed(**values: object) -> QuantizedSettings:
    return QuantizedSettings(**{**vars(SETTINGS), **values})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four smooth pictures with some detail."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for index in range(4):
        coarse = random.integers(0, 256, (7, 8, 3), dtype=np.uint8)
        save_image(folder / f"{index}.png", resize_bicubic(coarse, 8))
    return folder


@pytest.fixture(scope="module")
def network(photographs: Path) -> CalibratedNetwork:
    return CalibratedNetwork.make(load(TINY), read_lr_images(photographs))


def test_low_bits_recover_and_the_integer_network_is_measured(
    photographs: Path, network: CalibratedNetwork, tmp_path: Path
) -> None:
    wanted = uniform(network.sites, 3, 3)
    pairs = read_pairs(photographs, 2)
    host = HostNetwork(network.program(wanted), 1)

    def quality() -> float:
        return float(np.mean([psnr(host.run(pair.lr), pair.hr, Protocol("y", 2)) for pair in pairs]))

    before = quality()
    result = train_quantized(network, wanted, [photographs], tmp_path / "run", changed(iterations=100), photographs)
    assert result.parameters is not None
    host.set_program(network.program(wanted, result.parameters))
    assert quality() == result.psnr_db
    assert result.psnr_db > before + 0.5


def test_training_never_ends_worse_than_it_began(photographs: Path, network: CalibratedNetwork, tmp_path: Path) -> None:
    wanted = uniform(network.sites, 8, 8)
    start = train_quantized(network, wanted, [photographs], tmp_path / "start", changed(iterations=150))
    assert start.parameters is not None
    pairs = read_pairs(photographs, 2)
    host = HostNetwork(network.program(wanted, start.parameters), 1)
    began = float(np.mean([psnr(host.run(pair.lr), pair.hr, Protocol("y", 2)) for pair in pairs]))
    steep = changed(iterations=2, learning_rate=5.0)
    result = train_quantized(
        network, wanted, [photographs], tmp_path / "run", steep, photographs, start=start.parameters
    )
    assert (result.iteration, result.psnr_db) == (0, began)


def test_a_teacher_holds_the_network_to_its_float_output(
    photographs: Path, network: CalibratedNetwork, tmp_path: Path
) -> None:
    pairs, distances = read_pairs(photographs, 2), []
    for teacher in (0.0, 1.0):
        settings = changed(iterations=60, teacher=teacher, calibration_weight=0.0)
        result = train_quantized(
            network, uniform(network.sites, 8, 8), [photographs], tmp_path / f"{teacher}", settings
        )
        assert result.parameters is not None
        host = HostNetwork(network.program(result.parameters.allocation, result.parameters), 1)
        errors = [host.run(pair.lr).astype(float) - network.model.run(pair.lr) for pair in pairs]
        distances.append(float(np.mean([np.abs(error).mean() for error in errors])))
    assert distances[1] < distances[0] / 2


def test_an_artefact_gives_the_trained_networks_bytes(photographs: Path, tmp_path: Path) -> None:
    options = ("--iterations", 4, "--batch", 1, "--patch", 8, "--limit", 1)
    training = ("train", TINY, "--bits", "fqsr-4-4-8", "--images", photographs, "--out", tmp_path / "run", *options,
                "--calibration", photographs, "--test-images", photographs)  # fmt: skip
    trained = succeed(*training)
    succeed("compile", tmp_path / "run", "--out", tmp_path / "artefact")
    scored = succeed("eval", tmp_path / "artefact", "--images", photographs, "--limit", 1)
    assert scored["psnr_y_db"] == trained["score"]["psnr_y_db"]
    assert scored["mse"] == trained["score"]["mse"]
    image = read_image(photographs / "1.png")
    save_image(tmp_path / "small.png", image)
    succeed("upscale", tmp_path / "small.png", "--artefact", tmp_path / "artefact", "--out", tmp_path / "big.png")
    network = CalibratedNetwork.make(load(TINY), read_lr_images(photographs, 1))
    parameters = FineTuned.load(tmp_path / "run" / TRAINED)
    expected = HostNetwork(network.program(parameters.allocation, parameters), 1).run(image)
    assert np.array_equal(read_image(tmp_path / "big.png"), expected)
    assert succeed(*training) == trained


def test_an_allocation_of_a_front_is_trained(photographs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeed("search", TINY, "--out", run, "--images", photographs, "--calibration", photographs, "--trials", 3,
            "--limit", 1)  # fmt: skip
    options = ("--images", photographs, "--iterations", 2, "--batch", 1, "--patch", 8, "--point", 2)
    trained = succeed("train", run, "--out", tmp_path / "trained", *options)
    assert (trained["model"], trained["score"]["images"]) == (TINY, 1)
    kept = Allocation.load(tmp_path / "trained" / "allocation.json")
    assert kept == FineTuned.load(tmp_path / "trained" / TRAINED).allocation
    assert kept == selected_point(Run.open(run), 2).allocation
    assert "needs a run folder" in refuse("train", TINY, "--bits", "w4a4", "--out", tmp_path / "other", *options)
    assert not (tmp_path / "other").exists()


SCRIPT = """
import json, sys, torch
from qsearch.allocation import uniform
from qsearch.images import read_lr_images
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.training import QuantizedSettings, train_quantized
torch.set_num_threads(1)
model, photographs, output, settings = *sys.argv[1:4], json.loads(sys.argv[4])
network = CalibratedNetwork.make(load(model), read_lr_images(photographs))
wanted, settings = uniform(network.sites, 4, 4), QuantizedSettings(**settings)
train_quantized(network, wanted, [photographs], output, settings)
"""


def iteration(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["state"]["iteration"])


def test_a_killed_run_continues_to_the_same_parameters(
    photographs: Path, network: CalibratedNetwork, tmp_path: Path
) -> None:
    settings = changed(iterations=90, checkpoint_every=7, validate_every=90)
    train_quantized(network, uniform(network.sites, 4, 4), [photographs], tmp_path / "whole", settings)
    checkpoint = tmp_path / "killed" / CHECKPOINT
    command = [sys.executable, "-c", SCRIPT, TINY, photographs, checkpoint.parent, json.dumps(vars(settings))]
    process = subprocess.Popen(command)
    while process.poll() is None and not (checkpoint.exists() and iteration(checkpoint) >= 14):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 14 <= iteration(checkpoint) < 90
    wanted = uniform(network.sites, 4, 4)
    train_quantized(network, wanted, [photographs], checkpoint.parent, settings)
    whole, killed = (load_file(tmp_path / name / TRAINED) for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


@pytest.mark.parametrize("intervals", ["maximum", "calibration"])
def test_fixed_intervals_stay(photographs: Path, network: CalibratedNetwork, tmp_path: Path, intervals: str) -> None:
    wanted = uniform(network.sites, 4, 4)
    settings = changed(learned_intervals=False, start=intervals, iterations=5)
    result = train_quantized(network, wanted, [photographs], tmp_path / "run", settings)
    started = FineTuned.load(tmp_path / "run" / "start.safetensors")
    assert result.parameters is not None
    assert result.parameters.grids == started.grids
    assert not torch.equal(result.parameters.biases["up"], started.biases["up"])


def test_a_training_begins_at_the_folder_of_another(photographs: Path, tmp_path: Path) -> None:
    common = ("train", TINY, "--bits", "w8a8", "--images", photographs, "--calibration", photographs, "--iterations", 1,
              "--batch", 1, "--patch", 8, "--limit", 1)  # fmt: skip
    succeed(*common, "--out", tmp_path / "first")
    succeed(*common, "--start", tmp_path / "first", "--out", tmp_path / "second")
    first, begun = tmp_path / "first" / TRAINED, tmp_path / "second" / "start.safetensors"
    assert FineTuned.load(begun).grids == FineTuned.load(first).grids
    message = refuse(*common, "--start", tmp_path, "--out", tmp_path / "third")
    assert "is no file of fine-tuned parameters" in message


@pytest.mark.parametrize("levels", ["fqsr-odd", "float"])
def test_levels_for_comparison_are_trained_and_compile_to_nothing(
    photographs: Path, tmp_path: Path, levels: str
) -> None:
    options = ("--iterations", 4, "--batch", 1, "--patch", 8, "--limit", 1)
    done = succeed("train", TINY, "--bits", "fqsr-4-4-8", "--levels", levels, "--images", photographs, "--validation",
                   photographs, "--calibration", photographs, "--out", tmp_path / "run", *options)  # fmt: skip
    assert done["levels"] == levels
    assert done["validation_psnr_y_db"] > 5
    assert (tmp_path / "run" / COMPARED).is_file()
    assert "neither a run" in refuse("compile", tmp_path / "run", "--out", tmp_path / "artefact")


def test_a_diverging_training_says_where_and_keeps_the_last_checkpoint(
    photographs: Path, network: CalibratedNetwork, tmp_path: Path
) -> None:
    settings = changed(learning_rate=1e6, checkpoint_every=1, validate_every=100)
    with pytest.raises(QsearchError, match=r"the loss became (nan|inf) in layer .+ at iteration \d+; .*checkpoint\.pt"):
        train_quantized(network, uniform(network.sites, 8, 8), [photographs], tmp_path / "run", settings)
    assert iteration(tmp_path / "run" / CHECKPOINT) >= 0


def test_a_full_disk_is_one_line_and_leaves_the_last_checkpoint(
    photographs: Path, network: CalibratedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files, reached in the middle of a run, stands for the disk."""
    settings = changed(iterations=20, validate_every=100, checkpoint_every=5)
    wanted = uniform(network.sites, 4, 4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    monkeypatch.setattr("qsearch.training.patches.Patches.batch_of", limited_from(10))
    try:
        with pytest.raises(QsearchError, match=r"cannot write .*: File too large"):
            train_quantized(network, wanted, [photographs], tmp_path / "run", settings)
    finally:
        monkeypatch.undo()
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert iteration(tmp_path / "run" / CHECKPOINT) == 10
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")] == []
    assert train_quantized(network, wanted, [photographs], tmp_path / "run", settings).iteration == 20


def limited_from(number: int) -> Callable[..., object]:
    """`Patches.batch_of` that lets no file grow beyond a kilobyte from an iteration on."""
    from qsearch.training.patches import Patches

    original = Patches.batch_of

    def batch_of(self: Patches, iteration: int) -> object:
        if iteration == number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return original(self, iteration)

    return batch_of


def test_what_does_not_fit_is_one_line(photographs: Path, network: CalibratedNetwork, tmp_path: Path) -> None:
    wanted, other = uniform(network.sites, 4, 4), uniform(network.sites, 4, 8)
    train_quantized(network, wanted, [photographs], tmp_path / "run", changed(iterations=1))
    with pytest.raises(QsearchError, match="made with another allocation"):
        train_quantized(network, other, [photographs], tmp_path / "run", changed(iterations=1))
    with pytest.raises(QsearchError, match="made with another batch"):
        train_quantized(network, wanted, [photographs], tmp_path / "run", changed(iterations=1, batch=3))
    with pytest.raises(QsearchError, match="none of the 4 training images has sides of 80 pixels"):
        train_quantized(network, wanted, [photographs], tmp_path / "other", changed(patch=40))
    start = FineTuned.load(tmp_path / "run" / TRAINED)
    with pytest.raises(QsearchError, match="belong to another allocation"):
        train_quantized(network, other, [photographs], tmp_path / "other", SETTINGS, start=start)
    anchor = CalibratedNetwork.make(load("abpn_x3"), read_lr_images(photographs))
    with pytest.raises(QsearchError, match="the allocation does not fit this network"):
        train_quantized(anchor, wanted, [photographs], tmp_path / "other", SETTINGS)
    pairs = tmp_path / "pairs"
    save_image(pairs / "a_SRF_2_HR.png", np.zeros((32, 32, 3), np.uint8))
    save_image(pairs / "a_SRF_2_LR.png", np.zeros((15, 16, 3), np.uint8))
    with pytest.raises(QsearchError, match=r"a_SRF_2_LR\.png is 16x15, which is not 1/2 of a_SRF_2_HR"):
        train_quantized(network, wanted, [pairs], tmp_path / "other", SETTINGS)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "change",
    [{"interval_unit": -1.0}, {"calibration_weight": float("nan")}, {"teacher": 1.5}, {"start": "zero"},
     {"levels": "none"}, {"start_iterations": 0}],
)  # fmt: skip
def test_impossible_settings_are_named(change: dict[str, object]) -> None:
    with pytest.raises(QsearchError, match=next(iter(change))):
        changed(**change)
