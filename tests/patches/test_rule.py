"""The edge rule: scores in integers, thresholds for a wanted share."""

from pathlib import Path

import numpy as np
import pytest

from qsearch.errors import QsearchError
from qsearch.patches import EdgeRule, Layout, edge_score
from qsearch.patches.rule import relative_scores
from tests.patches.networks import textures
from tests.small_networks import random_images

LAYOUT = Layout(16)


def test_scores_rise_with_edges_and_are_zero_for_grey() -> None:
    grey = np.full((8, 8, 3), 77, np.uint8)
    line = grey.copy()
    line[:, 4] = 177
    assert edge_score(grey) == 0
    assert edge_score(line) == (2 + 1 + 1) * 100 * 8 * 256 // 64
    assert edge_score(np.zeros((1, 1, 3), np.uint8)) == 0


@pytest.mark.parametrize("shares", [(0.3,), (0.1, 0.5), (0.0,), (1.0,)])
def test_thresholds_give_the_wanted_shares(shares: tuple[float, ...]) -> None:
    images = random_images(6, 96, 96)
    rule = EdgeRule.calibrate(images, LAYOUT, shares)
    levels = [level for image in images for level in rule.decide(image, LAYOUT.split(96, 96)).levels]
    for level, share in enumerate(shares):
        assert levels.count(level) / len(levels) == pytest.approx(share, abs=0.02)


def test_busy_patches_get_the_high_level() -> None:
    image = textures()
    rule = EdgeRule.calibrate([image], LAYOUT, [4 / 9])
    decided = rule.decide(image, LAYOUT.split(48, 48))
    assert decided.levels == (1, 0, 1, 0, 1, 0, 1, 0, 1)
    assert decided.clusters is None
    assert rule.bitops(LAYOUT.split(48, 48)) == 48 * 48 * 8 * 64


def test_relative_to_its_image_an_edge_counts_more_where_there_are_few() -> None:
    calm, busy = textures(96, 96) // 2 + 60, textures(96, 96)
    rule = EdgeRule.calibrate([calm, busy], LAYOUT, [0.3], relative=True)
    shares = [rule.decide(image, LAYOUT.split(96, 96)).shares(2)[0] for image in (calm, busy)]
    assert shares[0] > shares[1]
    patches = LAYOUT.split(96, 96)
    absolute = EdgeRule.calibrate([calm, busy], LAYOUT, [0.3])
    assert absolute.decide(calm, patches).shares(2)[0] < absolute.decide(busy, patches).shares(2)[0]
    assert relative_scores([300, 100]) == [(((score << 20) // 200) << 20) // 200**2 for score in (300, 100)]
    assert relative_scores([0, 0]) == [0, 0]
    assert 0 < max(relative_scores([261120, *[0] * 261120])) < 2**63, "the C code has 64 bits"


def test_save_and_load(tmp_path: Path) -> None:
    EdgeRule((5,), relative=True).save(tmp_path / "relative.json")
    assert EdgeRule.load(tmp_path / "relative.json") == EdgeRule((5,), relative=True)
    rule = EdgeRule((900, 20))
    rule.save(tmp_path / "rule.json")
    assert EdgeRule.load(tmp_path / "rule.json") == rule
    (tmp_path / "rule.json").write_text("[1]")
    with pytest.raises(QsearchError, match="holds no edge rule"):
        EdgeRule.load(tmp_path / "rule.json")


def test_impossible_rules_are_refused() -> None:
    with pytest.raises(QsearchError, match="must descend"):
        EdgeRule((1, 2))
    with pytest.raises(QsearchError, match="there is none"):
        EdgeRule.calibrate([], LAYOUT, [0.5])
    with pytest.raises(QsearchError, match="at most 1 together"):
        EdgeRule.calibrate([textures()], LAYOUT, [0.5, 0.6])
