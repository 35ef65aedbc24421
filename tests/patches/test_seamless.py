"""Seamless patches: every layer on the whole image, each patch at its level, with true neighbours."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qsearch import cost
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.images import Pair, downscale
from qsearch.integer.levels import lower_levels
from qsearch.integer.storage import run_levels
from qsearch.patches import (
    Clustering,
    Constant,
    EdgeRule,
    Layout,
    OwnRanges,
    PatchBank,
    PatchNetwork,
    PatchScorer,
    Setting,
    StoredPatches,
    levels_of,
    seam_excess,
)
from qsearch.patches.split import level_map
from tests.patches.networks import joined, textures, tiny
from tests.patches.stored_patches import classifier, pictures, referenced_program
from tests.small_networks import random_images

LAYOUT, RULE = Layout(16, 0, "seamless"), EdgeRule((2000,))


@pytest.mark.parametrize("network", [tiny, joined], ids=["tiny", "joined"])
@pytest.mark.parametrize("name", pictures())
def test_every_picture_has_the_bytes_of_the_reference(network: type, name: str) -> None:
    calibrated, image = network(), pictures()[name]
    levels = levels_of(calibrated, "8-3")
    result = PatchNetwork(calibrated, levels, LAYOUT, RULE).run(image)
    chosen = [report.level for report in result.patches]
    patches, size = LAYOUT.split(*image.shape[:2]), image.shape[:2]
    program = lower_levels([level.version(calibrated) for level in levels])
    assert np.array_equal(result.image, run_levels(program, image, level_map(patches, chosen, *size)))
    stored = StoredPatches.of(calibrated, levels, LAYOUT, RULE)
    assert np.array_equal(stored.reference(image), result.image)
    assert replace(stored.executor().run(image), image=result.image) == result, "with its BitOPs"


def test_one_level_is_the_whole_image_without_overlap_or_seams() -> None:
    network, image = tiny(), random_images(1, 45, 53, seed=3)[0]
    levels = levels_of(network, "8-4")
    for index, level in enumerate(levels):
        result = PatchNetwork(network, levels, LAYOUT, Constant(index)).run(image)
        whole = HostNetwork(level.program(network)).run(image)
        assert np.array_equal(result.image, whole)
        assert result.bitops == cost.bitops(network.layers((45, 53)), level.allocation)
        assert result.overwork == 1
        assert seam_excess(result.image, whole, LAYOUT.split(45, 53), 2) == 0


def test_bitops_are_those_of_the_pixels_of_each_level() -> None:
    network, image = tiny(), textures(40, 53)
    levels = levels_of(network, "8-4")
    result = PatchNetwork(network, levels, LAYOUT, RULE).run(image)
    pixels = [0, 0]
    for report in result.patches:
        pixels[report.level] += (report.box.bottom - report.box.top) * (report.box.right - report.box.left)
    assert sum(pixels) == 40 * 53
    each = [cost.bitops(network.layers((1, 1)), level.allocation) for level in levels]
    assert result.bitops == sum(n * one for n, one in zip(pixels, each, strict=True)) + result.decision_bitops


def test_clusters_decide_and_own_ranges_hold() -> None:
    network, image = tiny(), textures(48, 53)
    own = OwnRanges(network, [textures(), image], LAYOUT)
    levels = [replace(level, calibrated=own.of(index, RULE)) for index, level in enumerate(levels_of(network, "8-4"))]
    stored = StoredPatches.of(network, levels, LAYOUT, Clustering(classifier(), share=0.3))
    result = stored.executor().run(image)
    assert {report.bits for report in result.patches} == {"8", "4"}
    assert np.array_equal(stored.reference(image), result.image)
    common = StoredPatches.of(network, levels_of(network, "8-4"), LAYOUT, Clustering(classifier(), share=0.3))
    assert not np.array_equal(common.reference(image), result.image)


def test_stored_and_read_again(tmp_path: Path) -> None:
    image = textures(40, 53)
    stored = StoredPatches.of(tiny(), levels_of(tiny(), "8-4"), LAYOUT, RULE, {"bitops": 1.0})
    stored.save(tmp_path / "p")
    again = StoredPatches.load(tmp_path / "p")
    assert again.layout == LAYOUT
    assert np.array_equal(again.reference(image), stored.reference(image))
    again.save(tmp_path / "q")
    names = [path.relative_to(tmp_path / "p") for path in (tmp_path / "p").rglob("*") if path.is_file()]
    assert all((tmp_path / "p" / name).read_bytes() == (tmp_path / "q" / name).read_bytes() for name in names)
    program = tmp_path / "p" / "levels" / "program.safetensors"
    program.write_bytes(program.read_bytes()[:-1] + b"\xff")
    with pytest.raises(QsearchError, match=r"levels/program\.safetensors is damaged"):
        StoredPatches.load(tmp_path / "p")


def pairs() -> list[Pair]:
    originals = [textures(96, 80), random_images(1, 80, 112, seed=4)[0]]
    return [Pair(str(index), downscale(hr, 2), hr, "") for index, hr in enumerate(originals)]


def test_scores_are_those_of_execution(tmp_path: Path) -> None:
    network, images = tiny(), [textures(), textures(64, 48)]
    levels = levels_of(network, "8-6-4")
    scorer = PatchScorer(network, levels, pairs(), images, tmp_path, 16)
    setting = Setting(16, None, "edges", 0, 0.4, "8", "4", False)
    found = scorer.measure(setting)
    assert found == scorer.measure(setting)
    policy = scorer.policy(setting)
    bank = PatchBank(network, levels, setting.layout, pairs())
    point = bank.point("edges", policy, ("8", "4"))
    assert found["psnr_y_db"] == pytest.approx(point.psnr_y_db)
    assert found["bitops"] == pytest.approx(point.bitops)
    assert found["overwork"] == 1
    oracle = bank.oracle("oracle", ("8", "4"), 1.0)
    eight = bank.point("8", Constant(), ("8",))
    assert (oracle.psnr_y_db, oracle.bitops) == (pytest.approx(eight.psnr_y_db), pytest.approx(eight.bitops))


def test_mistakes_are_said_in_one_line() -> None:
    with pytest.raises(QsearchError, match="they have no overlap of 4 pixels"):
        Layout(16, 4, "seamless")
    program = referenced_program("tiny")
    with pytest.raises(QsearchError, match="with RefER every patch runs by itself"):
        StoredPatches.of_referenced(tiny(), program, LAYOUT, Clustering(classifier()))
    apart = StoredPatches.of(tiny(), levels_of(tiny(), "8-4"), Layout(16), RULE)
    with pytest.raises(QsearchError, match="one program of all levels"):
        replace(apart, layout=LAYOUT)
    with pytest.raises(QsearchError, match="at least one allocation"):
        PatchNetwork(tiny(), [], LAYOUT, Constant())
