"""A search of patches: deterministic, guided to what is good, and nothing that cannot be."""

from pathlib import Path

import numpy as np
import pytest

from qsearch.errors import QsearchError
from qsearch.images import Pair
from qsearch.patches import (
    PatchPoint,
    PatchScorer,
    PatchSpace,
    PatchTimer,
    Setting,
    Whole,
    levels_of,
    run_patch_search,
    static_point,
)
from qsearch.patches.search import load_points, savings, split_front
from qsearch.search import Budget, hypervolume, non_dominated, parse_objectives
from tests.patches.networks import textures, tiny

OBJECTIVES = parse_objectives("psnr_y_db,bitops")
SPACE = PatchSpace(
    (16, 24, 32, 48, 64), (0, 2, 4, 8), ("edges", "smooth", "clusters"), (8, 16, 32), ("8", "7", "6", "5", "4", "3")
)


def toy(tried: Setting | Whole) -> dict[str, float]:
    """Bits cost and please; so does overlap, which small patches need more; clusters decide a little worse."""
    if isinstance(tried, Whole):
        bits = float(tried.level)
        return {"psnr_y_db": 34 - 40 * 2.0**-bits, "bitops": bits**2, "own_ranges": 0.0}
    bits = tried.share * float(tried.high) + (1 - tried.share) * float(tried.low)
    lost = 40 * 2.0**-bits + 8 / (tried.patch * (1 + tried.overlap)) + 0.2 * (tried.policy == "clusters")
    cost = bits**2 * (1 + tried.overlap / tried.patch) ** 2
    return {"psnr_y_db": 34 - lost + 0.1 * tried.own_ranges, "bitops": cost}


def found(folder: Path, trials: int, seed: int = 0) -> list[PatchPoint]:
    return run_patch_search(folder, SPACE, toy, OBJECTIVES, Budget(trials=trials), seed)


def test_a_seed_fixes_the_history_and_the_same_call_continues(tmp_path: Path) -> None:
    once = found(tmp_path / "a", 40)
    found(tmp_path / "b", 17)
    again = found(tmp_path / "b", 40)
    assert [(p.params, p.metrics, p.origin) for p in again] == [(p.params, p.metrics, p.origin) for p in once]
    assert load_points(tmp_path / "a") == once
    assert [p.params for p in found(tmp_path / "c", 40, seed=1)] != [p.params for p in once]
    settings = [point.tried for point in once]
    assert len(set(settings)) == 40
    assert settings[:6] == [Whole(level) for level in SPACE.levels]


def test_neighbours_of_good_settings_are_better_than_chance(tmp_path: Path) -> None:
    points = [point for point in found(tmp_path / "a", 71) if isinstance(point.tried, Setting)]
    random = np.random.default_rng(0)
    values = SPACE.choices()
    chance = []
    while len(chance) < len(points):
        params = {name: choice[int(random.integers(len(choice)))] for name, choice in values.items()}
        if SPACE.valid(params):
            chance.append(toy(PatchPoint(0, {}, params, "", 0.0).tried))
    both = [np.array([(-m["psnr_y_db"], m["bitops"]) for m in f]) for f in ([p.metrics for p in points], chance)]
    corner = np.max([values[non_dominated(values)].max(0) for values in both], 0)
    assert hypervolume(both[0], corner) > 1.02 * hypervolume(both[1], corner)


def test_savings_are_told_honestly() -> None:
    whole = [PatchPoint(n, toy(Whole(bits)), {"whole": bits}, "", 0.0) for n, bits in enumerate(("8", "5", "4"))]
    exact = whole[1].metrics
    for bitops, saved in ((exact["bitops"] / 2, 0.5), (exact["bitops"] * 1.5, -0.5)):
        point = PatchPoint(9, {"psnr_y_db": exact["psnr_y_db"], "bitops": bitops}, {}, "", 0.0)
        assert savings(point, whole, OBJECTIVES)["bitops"] == pytest.approx(saved)
    better = PatchPoint(9, {"psnr_y_db": 40.0, "bitops": 1.0}, {}, "", 0.0)
    assert savings(better, whole, OBJECTIVES) == {"bitops": None}
    assert split_front([*whole, better], OBJECTIVES) == (whole, [better])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"overlaps": (0, 16)}, "does not fit patches of 16"),
        ({"overlaps": (3,)}, "use an even number"),
        ({"policies": ("dice",)}, "policies of a search of patches are edges, relative, smooth, clusters"),
        ({"levels": ("8",)}, "at least two allocations, not 8"),
        ({"levels": ("8", "8")}, "each named once"),
        ({"classes": (1,)}, "at least 2 classes"),
        ({"patches": ()}, "needs patch to choose from"),
    ],
)
def test_impossible_choices_are_refused(changes: dict[str, tuple[object, ...]], words: str) -> None:
    choices = {"patches": (16,), "overlaps": (0,), "policies": ("edges",), "classes": (8,), "levels": ("8", "4")}
    with pytest.raises(QsearchError, match=words):
        PatchSpace(**{**choices, **changes})  # type: ignore[arg-type]


@pytest.fixture
def scorer(tmp_path: Path) -> PatchScorer:
    image = textures(64, 64)
    pairs = [Pair("a", image, np.repeat(np.repeat(image, 2, 0), 2, 1), "as stored")]
    return PatchScorer(tiny(), levels_of(tiny(), "8-4"), pairs, [image // 4], tmp_path, 16, threads=1)


def test_whole_images_have_the_better_ranges(scorer: PatchScorer) -> None:
    for level in scorer.levels.values():
        common = static_point(tiny(), level, scorer.pairs)
        own = static_point(tiny(), scorer.whole(Whole(level.name), own_ranges=True).levels[0], scorer.pairs)
        found = scorer.measure(Whole(level.name))
        assert own.psnr_y_db != common.psnr_y_db
        assert found["psnr_y_db"] == pytest.approx(max(own.psnr_y_db, common.psnr_y_db), abs=1e-9)
        assert found["own_ranges"] == (own.psnr_y_db > common.psnr_y_db)
        assert found["bitops"] == common.bitops


def test_latency_is_measured_with_everything_that_patches_need(scorer: PatchScorer) -> None:
    network, image = tiny(), scorer.pairs[0].lr
    levels = levels_of(network, "8-4")
    timer = PatchTimer(network, levels[0], [image], threads=1)
    setting = Setting(16, 4, "edges", 0, 0.5, "8", "4", own_ranges=True)
    assert timer.latency_ms(scorer.configuration(setting)) > 0
    assert timer.latency_ms(scorer.whole(Whole("4"), own_ranges=False)) > 0
