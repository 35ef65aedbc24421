"""The executable of seamless patches runs every layer on the whole image, each patch at its level, byte for byte."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qsearch.compile import emulation
from qsearch.compile.kernels import plain
from qsearch.compile.manifest import read_manifest
from qsearch.compile.ppm import encode_ppm
from qsearch.compile.run_artefact import run_executable, verify
from qsearch.errors import QsearchError
from qsearch.patches import EdgeRule, Layout, StoredPatches, levels_of
from qsearch.patches.artefact import build_patch_artefact
from qsearch.target import load_target
from tests.compile.test_winograd import Rotation
from tests.patches.networks import textures, tiny, wide
from tests.patches.stored_patches import (
    pictures,
    ramp,
    seamless,
    seamless_artefact,
    seamless_clusters,
    seamless_clusters_artefact,
)
from tests.patches.test_artefact import check, decided
from tests.small_networks import random_images

KINDS = {"edges": (seamless_artefact, seamless), "clusters": (seamless_clusters_artefact, seamless_clusters)}


@pytest.mark.parametrize("kind", KINDS)
def test_decisions_and_bytes_of_every_picture(kind: str) -> None:
    artefact, patches = KINDS[kind]
    check(artefact(), patches())
    used = {patch.level for patch in patches().executor().run(pictures()["ramp"]).patches}
    assert used == set(range(len(patches().levels)))


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 2}, {"tile": 27}, {"tile": 34, "threads": 2}])
@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_tiles_do_not_matter(kind: str, options: dict[str, int]) -> None:
    artefact, patches = KINDS[kind]
    image = textures(61, 79)
    assert np.array_equal(run_executable(artefact(), image, **options), patches().executor().run(image).image)


def test_the_golden_image_is_verified_and_a_tile_has_the_limit_of_the_memory() -> None:
    found = verify(seamless_artefact())
    assert found.ok, found.problems
    words = [seamless_artefact() / "seamless", "-", "-", "--memory", "1"]
    image = ramp(150, 260)
    done = subprocess.run(words, input=encode_ppm(image), capture_output=True, check=True)
    expected = seamless().executor().run(image).image
    assert done.stdout == encode_ppm(expected), "1 MiB is less than the image needs in one piece"


def test_patches_larger_than_a_run_and_smaller_than_the_ring(tmp_path: Path) -> None:
    """Whole rows of patches, one huge patch, and patches of fewer pixels than a kernel reaches."""
    image = pictures()["a few patches"]
    for side in (2, 20, 45):
        patches = replace(seamless(), layout=Layout(side, 0, "seamless"))
        folder = build_patch_artefact(patches, tmp_path / f"{side}", load_target("host"), name="net", choose=plain)
        for tile in (None, 31):
            assert np.array_equal(run_executable(folder, image, 1, tile), patches.executor().run(image).image), side


def test_low_spans_keep_their_winograd_kernels(tmp_path: Path) -> None:
    """A low patch reads its high neighbours on its own grid."""
    choose, image = Rotation(0), ramp(50, 70)
    patches = StoredPatches.of(wide(), levels_of(wide(), "8-4"), Layout(16, 0, "seamless"), EdgeRule((9000,)))
    folder = build_patch_artefact(patches, tmp_path / "out", load_target("host"), name="net", choose=choose)
    assert choose.used
    assert np.array_equal(run_executable(folder, image), patches.reference(image))


@pytest.mark.parametrize("layout", [Layout(16, 0, "seamless"), Layout(16, 4)], ids=["seamless", "apart"])
def test_edges_relative_to_the_image_decide_alike(layout: Layout, tmp_path: Path) -> None:
    images = [ramp(61, 83), textures(45, 39), *random_images(2, 40, 40)]
    rule = EdgeRule.calibrate(images, layout, [0.3, 0.3], relative=True)
    patches = StoredPatches.of(tiny(), levels_of(tiny(), "8-5-3"), layout, rule)
    folder = build_patch_artefact(patches, tmp_path / "out", load_target("host"), name="net", choose=plain)
    check(folder, StoredPatches.load(folder))
    used = {patch.level for image in images for patch in patches.executor().run(image).patches}
    assert used == {0, 1, 2}


def test_steps_and_stages_have_the_names_of_their_levels() -> None:
    manifest = read_manifest(seamless_artefact())
    assert {step.split("/")[0] for step in manifest["algorithms"]} == {"8", "5", "3"}
    assert manifest["levels"] == ["8", "5", "3"]
    words = [seamless_artefact() / "seamless", "-", "--profile", "2", "--threads", "1"]
    done = subprocess.run(words, input=encode_ppm(ramp(61, 83)), capture_output=True, check=True)
    found = json.loads(done.stdout)
    stages = found["stages"]
    assert set(stages) == {"decision_ms", "gather_ms", "merge_ms", "bodies_ms"}
    assert set(stages["bodies_ms"]) == {"8", "5", "3"}
    assert min(stages["bodies_ms"].values()) > 0
    of_steps = sum(step["latency_ms"] for step in found["steps"])
    assert 0 < of_steps < sum(stages["bodies_ms"].values()) + sum(stages[f"{s}_ms"] for s in ("decision", "gather"))


def test_memory_of_the_smallest_tile_is_told_and_refused(tmp_path: Path) -> None:
    needed = read_manifest(seamless_artefact())["smallest_tile_bytes"]
    host = load_target("host")
    small = host.model_copy(update={"limits": host.limits.model_copy(update={"memory_bytes": needed - 1})})
    with pytest.raises(QsearchError, match="working memory"):
        build_patch_artefact(seamless(), tmp_path / "out", small, name="net", choose=plain)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_another_architecture_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    target = load_target("raspberry-pi-5")
    if target.arch == load_target("host").arch or emulation.emulator(target.arch) is None:
        pytest.skip(f"no emulator of {target.arch} is installed ({emulation.PACKAGE}), or none is needed")
    patches = KINDS[kind][1]()
    folder = build_patch_artefact(patches, tmp_path / "out", target, name="net", choose=plain)
    check(folder, patches, ["ramp", "smaller than a patch", "all alike"])


def test_the_same_patches_make_the_same_folder(tmp_path: Path) -> None:
    folder = tmp_path / "again"
    build_patch_artefact(StoredPatches.load(seamless_artefact()), folder, load_target("host"), name="seamless",
                         choose=plain)  # fmt: skip
    for path in seamless_artefact().rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            assert (folder / path.relative_to(seamless_artefact())).read_bytes() == path.read_bytes(), path.name
    assert decided(folder, ramp(40, 50)) == decided(seamless_artefact(), ramp(40, 50))
