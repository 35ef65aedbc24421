"""A run folder: continued by the same configuration, refused for another, and safe against a kill."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from qsearch.allocation import SiteAllocation
from qsearch.errors import QsearchError
from qsearch.run import Run, RunConfig
from qsearch.search import load_history
from tests.command_line import contents
from tests.small_networks import random_images
from tests.tiny import TINY

CONFIG = RunConfig(TINY, "samples", "samples", "psnr_y_db,bitops", size=(48, 64), image_limit=1, calibration_limit=1)
TRIALS = 16


def test_a_run_is_written_with_its_calibration_and_found_again(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", CONFIG)
    assert contents(tmp_path) == {}
    network = run.network()
    before = contents(tmp_path)
    assert set(before) == {"run", "run/run.json", "run/calibration.safetensors"}
    again = Run.open(tmp_path / "run")
    assert again.config == CONFIG
    assert Run.create(tmp_path / "run", CONFIG).config == CONFIG
    for site in network.sites:
        four = SiteAllocation(bits=4)
        assert again.network().calibration.grid(site.name, four) == network.calibration.grid(site.name, four)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "words"), [({"seed": 1}, "seed"), ({"size": (10, 10), "threads": 1}, "size, threads")]
)
def test_another_configuration_is_refused(tmp_path: Path, change: dict[str, object], words: str) -> None:
    Run.create(tmp_path / "run", CONFIG).network()
    with pytest.raises(QsearchError, match=f"another search: its {words} differ"):
        Run.create(tmp_path / "run", replace(CONFIG, **change))  # type: ignore[arg-type]


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match=r"no run\.json"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text('{"speed": 1, "size": [1, 2]}')
    with pytest.raises(QsearchError, match="not a run of this version"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(QsearchError, match="not valid JSON"):
        Run.open(tmp_path)


def test_images_of_a_folder_and_bundled_ones(tmp_path: Path) -> None:
    from qsearch.images import save_image

    save_image(tmp_path / "a.png", random_images(1, 60, 64)[0])
    config = replace(CONFIG, images=str(tmp_path))
    assert [pair.name for pair in Run(tmp_path / "run", config).pairs] == ["a"]
    assert len(Run(tmp_path / "run", replace(CONFIG, image_limit=2)).pairs) == 2


def test_a_killed_search_continues_by_the_same_command(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-c", "from qsearch.cli import main; main()", "search", "abpn_x3", "--out", str(folder),
               "--trials", str(TRIALS), "--size", "64x48", "--limit", "1"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while process.poll() is None and _finished(folder) < 3:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    finished = load_history(folder / "search").points
    measured = (folder / "search" / "sensitivity.jsonl").read_text()
    assert 3 <= len(finished) < TRIALS

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    points = load_history(folder / "search").points
    assert points[: len(finished)] == finished, "a finished trial was lost or changed"
    assert len(points) == TRIALS
    assert len({point.allocation.to_json() for point in points}) == TRIALS, "an allocation was measured twice"
    assert (folder / "search" / "sensitivity.jsonl").read_text() == measured, "sensitivities were measured again"


def _finished(folder: Path) -> int:
    """Trials that the journal says are complete; read as text, which is quick."""
    journal = folder / "search" / "optuna.journal"
    return journal.read_text().count('"state":1,') if journal.exists() else 0
