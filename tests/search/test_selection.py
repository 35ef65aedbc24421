"""Selection answers what a person asks for, and says what comes nearest when nothing fits."""

from pathlib import Path

import pytest

from qsearch.errors import QsearchError
from qsearch.search import Budget, History, parse_objectives, run_search, select
from tests.search.toy import SITES, cost, measure

CONDITIONS = {"images": "toy set", "protocol": "Y, crop 4"}


def search(folder: Path, offset_db: float = 0.0, **conditions: str) -> History:
    return run_search(
        folder,
        SITES,
        lambda a: {"psnr_y_db": measure(a)["psnr_y_db"] + offset_db},
        cost,
        parse_objectives("psnr_y_db,bitops"),
        Budget(trials=20),
        conditions={**CONDITIONS, **conditions},
        references={"float": {"psnr_y_db": 31.2 + offset_db}},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[History, History]:
    folder = tmp_path_factory.mktemp("runs")
    return search(folder / "small"), search(folder / "large", offset_db=0.5)


def test_best_psnr_within_costs(runs: tuple[History, History]) -> None:
    chosen = select([runs[0].folder], max_bitops=800, max_weight_bytes=20000).point
    fitting = [p for p in runs[0].points if p.metrics["bitops"] <= 800 and p.metrics["weight_bytes"] <= 20000]
    assert chosen.metrics["psnr_y_db"] == max(p.metrics["psnr_y_db"] for p in fitting)


def test_cheapest_within_a_drop(runs: tuple[History, History]) -> None:
    chosen = select([runs[0].folder], max_drop_db=1.0).point
    fitting = [p for p in runs[0].points if p.metrics["psnr_y_db"] >= 30.2]
    assert chosen.metrics["bitops"] == min(p.metrics["bitops"] for p in fitting)


def test_a_drop_over_several_runs_counts_from_the_best_float(runs: tuple[History, History]) -> None:
    chosen = select([run.folder for run in runs], max_drop_db=0.3)
    assert chosen.history.folder == runs[1].folder
    assert chosen.point.metrics["psnr_y_db"] >= 31.4


def test_the_nearest_is_named(runs: tuple[History, History]) -> None:
    least = min(runs[0].points, key=lambda p: p.metrics["bitops"])
    with pytest.raises(
        QsearchError, match=rf"none of 20 trials has bitops at most 10: .*nearest is trial {least.number} "
    ):
        select([runs[0].folder], max_bitops=10)


@pytest.mark.parametrize(
    ("limits", "words"),
    [({}, "give a limit"), ({"max_latency_ms": 5.0}, "did not measure latency_ms")],
)
def test_limits_that_make_no_sense(runs: tuple[History, History], limits: dict[str, float], words: str) -> None:
    with pytest.raises(QsearchError, match=words):
        select([runs[0].folder], **limits)  # type: ignore[arg-type]


def test_runs_on_different_images_are_not_compared(runs: tuple[History, History], tmp_path: Path) -> None:
    other = search(tmp_path / "other", images="holiday photographs")
    with pytest.raises(QsearchError, match="their images differ"):
        select([runs[0].folder, other.folder], max_drop_db=1.0)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match="holds no search"):
        select([tmp_path], max_drop_db=1.0)


def test_latencies_within_their_noise_are_ties_and_the_next_cost_decides(tmp_path: Path) -> None:
    """A few tenths of a percent between two measured latencies are no reason to take more BitOPs."""
    run = run_search(
        tmp_path / "timed",
        SITES,
        lambda a: {**measure(a), "latency_ms": 10.0 - 1e-5 * cost(a)["bitops"]},
        cost,
        parse_objectives("psnr_y_db,latency_ms,bitops"),
        Budget(trials=20),
        conditions=CONDITIONS,
    )
    chosen = select([run.folder], min_psnr_db=30.0).point
    fitting = [p for p in run.points if p.metrics["psnr_y_db"] >= 30.0]
    assert chosen.metrics["bitops"] == min(p.metrics["bitops"] for p in fitting)
    assert chosen.metrics["latency_ms"] > min(p.metrics["latency_ms"] for p in fitting)
