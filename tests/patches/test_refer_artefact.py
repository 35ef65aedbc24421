"""The executable of a configuration with RefER borrows and repairs as the Python one does, byte for byte."""

import json
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qsearch.compile import emulation
from qsearch.compile.kernels import plain
from qsearch.compile.manifest import read_manifest
from qsearch.compile.ppm import encode_ppm
from qsearch.compile.run_artefact import run_executable, verify
from qsearch.errors import QsearchError
from qsearch.patches import Clustering, Layout
from qsearch.patches.artefact import build_patch_artefact
from qsearch.patches.stored import StoredPatches
from qsearch.target import Limits, load_target
from tests.command_line import succeed
from tests.patches.networks import textures
from tests.patches.stored_patches import classifier, pictures, ramp, referenced, referenced_artefact
from tests.patches.test_artefact import check
from tests.small_networks import random_images


def test_every_picture() -> None:
    check(referenced_artefact(), referenced())


def test_pictures_have_every_kind_of_patch() -> None:
    """Queries, references with and without them, and images without queries."""
    found = {name: referenced().executor().run(image).patches for name, image in pictures().items()}
    named = [Counter(patch.reference for patch in patches) for patches in found.values()]
    assert any(1 in counts.values() and max(counts.values()) > 2 for counts in named)
    assert {patch.level for patch in found["one patch"]} == {0}
    assert [patch.level for patch in found["grey"]] == [0] + [1] * (len(found["grey"]) - 1)


def test_all_patches_different() -> None:
    image = np.concatenate([pictures()["ramp"][:18, 60:], random_images(1, 18, 5)[0]], axis=1)
    result = referenced().executor().run(image)
    assert {patch.level for patch in result.patches} == {0}, "nobody borrows"
    assert np.array_equal(run_executable(referenced_artefact(), image), result.image)


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 3}, {"tile": 18}])
def test_threads_do_not_matter(options: dict[str, int]) -> None:
    image = textures(45, 39, 6)
    assert np.array_equal(
        run_executable(referenced_artefact(), image, **options), referenced().executor().run(image).image
    )


def test_averaged_row_by_row(tmp_path: Path) -> None:
    policy = Clustering(classifier(), share=0.4)
    patches = replace(referenced("tiny"), layout=Layout(14, 9, "average"), policy=policy)
    folder = build_patch_artefact(patches, tmp_path / "out", load_target("host"), name="net", choose=plain)
    check(folder, patches, ["ramp", "a few patches", "one row", "all alike", "smaller than a patch"])


def test_another_architecture(tmp_path: Path) -> None:
    target = load_target("raspberry-pi-5")
    if target.arch == load_target("host").arch or emulation.emulator(target.arch) is None:
        pytest.skip(f"no emulator of {target.arch} is installed ({emulation.PACKAGE}), or none is needed")
    folder = build_patch_artefact(referenced("tiny"), tmp_path / "out", target, name="net", choose=plain)
    check(folder, referenced("tiny"), ["ramp", "smaller than a patch", "all alike"])


def test_profile_splits_the_time_of_refer() -> None:
    executable = referenced_artefact() / "referenced"
    done = subprocess.run(
        [executable, "-", "--profile", "2", "--threads", "1"],
        input=encode_ppm(textures(45, 39, 6)),
        capture_output=True,
    )
    stages = json.loads(done.stdout)["stages"]
    assert set(stages) == {"decision_ms", "gather_ms", "merge_ms", "bodies_ms", "refer_ms"}
    assert set(stages["refer_ms"]) == {"matching", "warp", "fusion"}
    assert all(value > 0 for value in (*stages["refer_ms"].values(), *stages["bodies_ms"].values()))


def test_small_tiles_and_targets_are_refused(tmp_path: Path) -> None:
    assert "a patch runs in one piece" in refused(
        referenced_artefact() / "referenced", textures(18, 40), "--tile", "17"
    )
    target = load_target("host")
    small = target.model_copy(update={"limits": Limits(memory_bytes=1 << 20)})
    with pytest.raises(QsearchError, match="96x96 pixels, needs"):
        build_patch_artefact(replace(referenced(), layout=Layout(96)), tmp_path / "never", small, name="net")


def refused(executable: Path, image: NDArray[np.uint8], *options: str) -> str:
    """The line with which the executable refuses an image."""
    done = subprocess.run([executable, "-", "-", *options], input=encode_ppm(image), capture_output=True)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    return done.stderr.decode()


def test_the_command_compiles_what_was_stored(tmp_path: Path) -> None:
    patches = replace(referenced("tiny"), layout=Layout(88), score={"psnr": {"psnr_y_db": 30.0}})
    patches.save(tmp_path / "stored")
    succeed("compile", tmp_path / "stored", "--out", tmp_path / "artefact", "--name", "net")
    manifest = read_manifest(tmp_path / "artefact")
    assert (manifest["levels"], manifest["refer"]) == (["8", "4"], 1)
    assert verify(tmp_path / "artefact").ok
    again = StoredPatches.load(tmp_path / "artefact")
    net, memory = tmp_path / "artefact" / "net", ("--memory", "1")
    assert "RefER needs" in refused(net, ramp(4 * 88, 5 * 88), *memory), "for the references"
    one = subprocess.run([net, "-", "-", *memory], input=encode_ppm(ramp(88, 88)), capture_output=True)
    assert one.returncode == 0, "one patch borrows nothing"
    image = textures(30, 41, 6)
    assert np.array_equal(again.reference(image), run_executable(tmp_path / "artefact", image))
