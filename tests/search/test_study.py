"""A search beats the uniform allocations, survives being killed, and refuses what does not fit its folder."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from qsearch.allocation import Allocation, uniform
from qsearch.errors import QsearchError
from qsearch.search import Budget, History, load_history, parse_objectives, read_sensitivity, run_search
from tests.search.toy import OBJECTIVES, SITES, cost, measure


def search(folder: Path, trials: int = 30, **changes: object) -> History:
    arguments = {"sites": SITES, "measure": measure, "cost": cost, "objectives": OBJECTIVES} | changes
    return run_search(folder, budget=Budget(trials=trials), **arguments)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> History:
    return search(tmp_path_factory.mktemp("runs") / "toy", trials=60)


@pytest.mark.parametrize("bits", range(3, 8))
def test_every_uniform_allocation_is_beaten(run: History, bits: int) -> None:
    allocation = uniform(SITES, bits, bits)
    psnr, bitops = measure(allocation)["psnr_y_db"], cost(allocation)["bitops"]
    cheaper = any(p.metrics["psnr_y_db"] >= psnr and p.metrics["bitops"] <= 0.9 * bitops for p in run.points)
    better = any(p.metrics["psnr_y_db"] >= psnr + 0.1 and p.metrics["bitops"] <= bitops for p in run.points)
    assert cheaper or better


def test_the_folder_tells_the_whole_search(run: History) -> None:
    assert len(run.points) == 60
    assert len({point.allocation.to_json() for point in run.points}) == 60
    front = json.loads((run.folder / "front.json").read_text())
    assert front["trials"] == 60
    assert front["hypervolume"] > 0
    for point in front["points"]:
        Allocation.model_validate(point["allocation"]).check(SITES)
        assert point["metrics"] == {
            **measure(run.points[point["number"]].allocation),
            **cost(run.points[point["number"]].allocation),
        }
    measured = {(m.site, m.bits) for m in read_sensitivity(run.folder / "sensitivity.jsonl").measurements[1:]}
    assert {site for site, _ in measured} == {site.name for site in SITES if len(site.choices) > 1}


def test_more_trials_continue_and_the_same_budget_does_nothing(tmp_path: Path) -> None:
    calls: list[Allocation] = []

    def counting(allocation: Allocation) -> dict[str, float]:
        calls.append(allocation)
        return measure(allocation)

    search(tmp_path / "run", 10, measure=counting, quality=measure)
    first = load_history(tmp_path / "run").points
    search(tmp_path / "run", 10, measure=counting, quality=measure)
    assert len(calls) == 10
    more = search(tmp_path / "run", 14, measure=counting, quality=measure).points
    assert more[:10] == first
    assert len(more) == len(calls) == 14


def test_kill_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    folder, log, trials = tmp_path / "run", tmp_path / "measured", 40
    command = [sys.executable, "-m", "tests.search.toy", str(folder), str(log), str(trials)]
    finished: list[str] = []
    chance = random.Random(1)
    for _ in range(3):
        process = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)
        before = len(finished)
        while process.poll() is None and len(_finished(folder)) <= before:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        after = _finished(folder)
        assert after[: len(finished)] == finished, "a finished trial was lost or changed"
        finished = after
        # What a kill in the middle of a write leaves behind, whether or not this one hit such a moment.
        with (folder / "optuna.journal").open("ab") as journal:
            journal.write(b'{"op_code":6,"worker_id":"torn')
    assert 0 < len(finished) < trials
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == 0
    points = load_history(folder).points
    assert _finished(folder)[: len(finished)] == finished
    assert len(points) == trials
    assert len({point.allocation.to_json() for point in points}) == trials
    # Only a measurement that a kill cut short is made again.
    repeated = [count for count in Counter(log.read_text().splitlines()).values() if count > 1]
    assert sum(repeated) - len(repeated) <= 3


def _finished(folder: Path) -> list[str]:
    if not (folder / "optuna.journal").exists():
        return []
    return [f"{p.number} {p.metrics} {p.allocation.to_json()}" for p in load_history(folder).points]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objectives": parse_objectives("psnr_y_db,weight_bytes")}, "objectives"),
        ({"sites": SITES[:-1]}, "sites"),
        ({"identity": {"network": "other"}}, "network is toy, not other"),
    ],
)
def test_another_search_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    search(tmp_path / "run", 2, identity={"network": "toy"})
    with pytest.raises(QsearchError, match=words):
        search(tmp_path / "run", 2, **{"identity": {"network": "toy"}, **changes})


def test_half_a_search_is_refused(tmp_path: Path) -> None:
    (tmp_path / "optuna.journal").write_text("somebody's\n")
    with pytest.raises(QsearchError, match=r"holds optuna.journal but no search.json"):
        search(tmp_path)
    assert (tmp_path / "optuna.journal").read_text() == "somebody's\n"


def test_a_broken_measurement_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match="psnr_y_db of trial 0 is nan"):
        search(tmp_path / "run", measure=lambda a: {"psnr_y_db": float("nan")}, quality=measure)
    assert len(search(tmp_path / "run").points) == 30


def test_a_time_budget_covers_all_runs_of_the_folder(tmp_path: Path) -> None:
    def slow(allocation: Allocation) -> dict[str, float]:
        time.sleep(0.01)
        return measure(allocation)

    budget = Budget(seconds=1.5)
    points = run_search(tmp_path / "run", SITES, slow, cost, OBJECTIVES, budget, quality=measure).points
    again = run_search(tmp_path / "run", SITES, slow, cost, OBJECTIVES, budget, quality=measure).points
    assert 0 < len(points) <= len(again)


def test_several_costs_give_a_front_in_each(tmp_path: Path) -> None:
    objectives = parse_objectives("psnr_y_db,bitops,weight_bytes")
    points = search(tmp_path / "run", 40, objectives=objectives).points
    for name in ("bitops", "weight_bytes"):
        w4a4 = next(p for p in points if p.origin == "uniform w4a4")
        assert any(
            p.metrics[name] < w4a4.metrics[name] and p.metrics["psnr_y_db"] > w4a4.metrics["psnr_y_db"] for p in points
        )
