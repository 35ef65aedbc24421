"""`qsearch search-patches`: killed and continued, from a run's mixed allocations, and a setting of it stored."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qsearch.allocation import Allocation
from qsearch.commands.patch_run import PatchRun
from qsearch.patches import Clustering, EdgeRule, StoredPatches
from qsearch.patches.search import load_points
from qsearch.search import load_history
from tests.command_line import refuse, succeed
from tests.tiny import TINY

SMALL = ("--patch", "16,24", "--overlap", 0, "--limit", 1)
SEARCH = ("search-patches", TINY, "--levels", "8-5-3", "--trials", 20, "--policy", "edges,smooth", *SMALL)
FEW = "--levels 8-3 --trials 3 --policy clusters --classes 4 --ranges own --patch 16 --overlap 0 --limit 1"
CLUSTERS = ("search-patches", TINY, *FEW.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    succeed(*SEARCH, "--out", folder)
    return folder


def history(folder: Path) -> list[tuple[Any, ...]]:
    points = load_points(folder / "patches")
    return sorted(
        (str(sorted(point.params.items())), point.metrics["psnr_y_db"], point.metrics["bitops"]) for point in points
    )


def test_the_table_has_whole_images_and_what_patches_save(run: Path) -> None:
    front = json.loads((run / "patches" / "front.json").read_text())
    assert front["trials"] == 20
    assert [row["whole"] for row in front["whole_images"]] == ["8", "5", "3"]
    assert all(row["overwork"] == 1 for row in front["whole_images"])
    assert all("bitops" in row["saved"] for row in front["patches"])
    assert "</svg>" in (run / "front-bitops.svg").read_text()


def test_killed_and_continued_it_is_the_same_search(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = "from qsearch.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, (*SEARCH, "--out", folder))]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    journal = folder / "patches" / "optuna.journal"
    while process.poll() is None and not (journal.is_file() and journal.read_text().count('"metrics"') >= 6):
        time.sleep(0.02)
    process.kill()
    process.communicate()
    with journal.open("ab") as file:
        file.write(b'{"op_code":6,"worker_id":"torn')
    assert 0 < len(load_points(folder / "patches")) < 20
    succeed(*SEARCH, "--out", folder)
    assert history(folder) == history(run)
    rows = [json.loads((place / "patches" / "front.json").read_text())["patches"] for place in (folder, run)]
    for row in (*rows[0], *rows[1]):
        del row["point"]  # a trial that the kill cut short has a number, too
    assert rows[0] == rows[1]
    assert "its patches differ" in refuse(*SEARCH, "--out", folder, "--patch", 32)


@pytest.mark.parametrize("policy", ["edges", "smooth", "clusters"])
def test_a_stored_setting_is_what_was_found(run: Path, tmp_path: Path, policy: str) -> None:
    if policy == "clusters":
        run = tmp_path / "run"
        succeed(*CLUSTERS, "--out", run)
    point = next(
        p for p in load_points(run / "patches") if p.params.get("policy") == policy and p.params["ranges"] == "own"
    )
    made = succeed("patches", "--from", run, "--point", point.number, "--out", tmp_path / "out")
    assert made["psnr"]["psnr_y_db"] == pytest.approx(point.metrics["psnr_y_db"], abs=1e-9)
    assert made["bitops"] == point.metrics["bitops"]
    stored = StoredPatches.load(tmp_path / "out")
    assert [level.name for level in stored.levels] == list(point.tried.levels)  # type: ignore[union-attr]
    assert made["shares"][point.params["high"]] == pytest.approx(point.metrics["high_share"])
    assert isinstance(stored.policy, Clustering) == (policy == "clusters")
    assert {entry["ranges"] for entry in made["whole_images"].values()} <= {"own", "common"}


def test_seamless_patches_are_searched_beside_others(tmp_path: Path) -> None:
    words = ("search-patches", TINY, "--levels", "8-4", "--patch", 16, "--overlap", "none,4", "--limit", 1,
             "--policy", "relative", "--ranges", "common", "--out", tmp_path / "run", "--trials")  # fmt: skip
    succeed(*words, 4)
    succeed(*words, 9)
    points = [point for point in load_points(tmp_path / "run" / "patches") if "overlap" in point.params]
    assert {point.params["overlap"] for point in points} == {None, 4}
    assert all(point.metrics["overwork"] == 1 for point in points if point.params["overlap"] is None)
    found = next(point for point in points if point.params["overlap"] is None)
    made = succeed("patches", "--from", tmp_path / "run", "--point", found.number, "--out", tmp_path / "out")
    assert made["psnr"]["psnr_y_db"] == pytest.approx(found.metrics["psnr_y_db"], abs=1e-9)
    assert made["bitops"] == found.metrics["bitops"]
    stored = StoredPatches.load(tmp_path / "out")
    assert stored.layout.seamless
    assert isinstance(stored.policy, EdgeRule)
    assert stored.policy.relative


def test_patches_take_mixed_allocations_of_a_run(tmp_path: Path) -> None:
    static = tmp_path / "static"
    succeed("search", TINY, "--out", static, "--trials", 6, "--limit", 1, "--size", "32x32")
    found = succeed(
        "search-patches", "--run", static, "--out", tmp_path / "run", "--trials", 8, "--policy", "edges", *SMALL
    )
    points = {point.number: point for point in load_history(static / "search").points}
    levels = PatchRun.open(tmp_path / "run").levels()
    assert 2 <= len(levels) <= 8
    for level, row in zip(levels, found["whole_images"], strict=True):
        point = points[int(level.name.split("-")[0].removeprefix("p"))]
        assert level.allocation == point.allocation
        assert row["psnr_y_db"] >= point.metrics["psnr_y_db"] - 1e-9
    assert [row["bitops"] for row in found["whole_images"]] == sorted(
        (r["bitops"] for r in found["whole_images"]), reverse=True
    )
    stored = tmp_path / "stored"
    row = found["patches"][0]
    succeed("patches", "--from", tmp_path / "run", "--point", row["point"], "--out", stored)
    assert Allocation.load(stored / "levels" / "0" / "allocation.json") == next(
        level.allocation for level in levels if level.name == row["high"]
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((TINY,), "give either --budget"),
        (("--trials", 5), "give either a MODEL or --run"),
        ((TINY, "--trials", 5, "--levels", "4-8"), "must go from high to low"),
        ((TINY, "--trials", 5, "--levels", "9-4"), "not of the form 8-4"),
        ((TINY, "--trials", 5, "--patch", "big"), "--patch 'big' is no list of whole numbers"),
        ((TINY, "--trials", 5, "--overlap", "0,32"), "does not fit patches of 24"),
        ((TINY, "--trials", 5, "--objectives", "psnr_y_db,weight_bytes"), "knows the costs bitops and latency_ms"),
        ((TINY, "--trials", 5, "--overlap", "no"), "--overlap is none or a number of pixels"),
        ((TINY, "--trials", 5, "--overlap", "none", "--objectives", "psnr_y_db,latency_ms"), "an --overlap in pixels"),
        (("--run", "nowhere", "--trials", 5), "holds no search"),
        (("--run", "nowhere", "--trials", 5, "--levels", "8-4"), "go with a MODEL"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(options: tuple[object, ...], words: str, tmp_path: Path) -> None:
    assert words in refuse("search-patches", "--out", tmp_path / "run", *options)
    assert list(tmp_path.iterdir()) == []


def test_only_settings_of_patches_are_stored(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "is whole images at 8, without patches" in refuse("patches", "--from", run, "--point", 0, "--out", out)
    assert "has no finished trial 999; it has 20" in refuse("patches", "--from", run, "--point", 999, "--out", out)
    assert "holds no search of patches" in refuse("patches", "--from", tmp_path, "--point", 1, "--out", out)
    assert "--from and --point go together" in refuse("patches", "--from", run, "--out", out)
    assert "either a MODEL or --from" in refuse("patches", "--out", out)
    assert not out.exists()
