"""The executable of a configuration of patches decides and merges as the Python one does, byte for byte."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qsearch.compile import emulation
from qsearch.compile.kernels import plain
from qsearch.compile.manifest import digests, read_manifest, write_manifest
from qsearch.compile.ppm import encode_ppm
from qsearch.compile.run_artefact import run_executable, verify
from qsearch.errors import QsearchError
from qsearch.patches import Layout, PatchNetwork, PatchResult, levels_of
from qsearch.patches.artefact import build_patch_artefact
from qsearch.patches.stored import StoredPatches
from qsearch.target import load_target
from tests.patches.networks import textures, tiny
from tests.patches.stored_patches import averaged, clusters, clusters_artefact, edges, edges_artefact, pictures

ARTEFACTS = {"edges": edges_artefact, "clusters": clusters_artefact}


def decided(artefact: Path, image: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """What the executable prints of its decisions."""
    executable = artefact / read_manifest(artefact)["executable"]
    words = [*emulation.command(executable), "-", "--decisions"]
    done = subprocess.run(words, input=encode_ppm(image), capture_output=True, timeout=60, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["patches"]
    return found


def expected_decisions(result: PatchResult) -> list[dict[str, Any]]:
    found = []
    for patch in result.patches:
        box = patch.box
        entry: dict[str, Any] = {"box": [box.top, box.left, box.bottom, box.right]}
        entry |= {"level": patch.level, "bits": patch.bits}
        found.append(
            entry if patch.cluster is None else {**entry, "cluster": patch.cluster, "reference": patch.reference}
        )
    return found


def test_pictures_need_every_level_and_several_clusters() -> None:
    image = pictures()["ramp"]
    assert {patch.level for patch in edges().executor().run(image).patches} == {0, 1, 2}
    found = clusters().executor().run(image).patches
    assert {patch.level for patch in found} == {0, 1}
    assert len({patch.cluster for patch in found}) > 2


def check(artefact: Path, patches: StoredPatches, names: list[str] | None = None) -> None:
    executor = patches.executor()
    for name, image in pictures().items():
        if names is None or name in names:
            result = executor.run(image)
            assert decided(artefact, image) == expected_decisions(result), name
            np.testing.assert_array_equal(run_executable(artefact, image), result.image, err_msg=name)


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_decisions_and_bytes_of_every_picture(kind: str) -> None:
    check(ARTEFACTS[kind](), {"edges": edges, "clusters": clusters}[kind]())


def test_the_executor_is_the_patch_network() -> None:
    patches, image = edges(), textures(61, 83)
    network = PatchNetwork(tiny(), levels_of(tiny(), "8-5-3"), patches.layout, patches.policy)
    expected, found = network.run(image), patches.executor().run(image)
    assert np.array_equal(found.image, expected.image)
    assert replace(found, image=expected.image) == expected, "with its BitOPs"
    assert np.array_equal(patches.reference(image), expected.image)


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 3}, {"tile": 15}, {"tile": 17}])
@pytest.mark.parametrize("kind", ARTEFACTS)
def test_threads_and_tiles_do_not_matter(kind: str, options: dict[str, int]) -> None:
    image = textures(45, 39)
    patches = {"edges": edges, "clusters": clusters}[kind]()
    assert np.array_equal(run_executable(ARTEFACTS[kind](), image, **options), patches.executor().run(image).image)


@pytest.mark.parametrize(
    "patches",
    [averaged(edges()), replace(clusters("B"), layout=Layout(16)), clusters("A", 0.4)],
    ids=["edges, averaged", "reading B, cropped", "share of references"],
)
def test_other_readings_and_merges(patches: StoredPatches, tmp_path: Path) -> None:
    folder = build_patch_artefact(patches, tmp_path / "out", load_target("host"), name="net", choose=plain)
    check(folder, patches, ["ramp", "a few patches", "one row", "all alike", "grey"])


@pytest.mark.parametrize("kind", ARTEFACTS)
def test_another_architecture_decides_alike(kind: str, tmp_path: Path) -> None:
    target = load_target("raspberry-pi-5")
    if target.arch == load_target("host").arch or emulation.emulator(target.arch) is None:
        pytest.skip(f"no emulator of {target.arch} is installed ({emulation.PACKAGE}), or none is needed")
    patches = {"edges": edges, "clusters": clusters}[kind]()
    folder = build_patch_artefact(patches, tmp_path / "out", target, name="net", choose=plain)
    check(folder, patches, ["ramp", "smaller than a patch", "all alike"])


def test_kernels_are_shared_and_parameters_are_not() -> None:
    manifest = read_manifest(edges_artefact())
    forms = manifest["algorithms"]
    assert {step.split("/")[0] for step in forms} == {"8", "5", "3"}
    archived = subprocess.run(
        [sys.executable, "-m", "ziglang", "ar", "t", edges_artefact() / "libedges.a"], capture_output=True, check=True
    ).stdout.split()
    one = {form for step, form in forms.items() if step.startswith("8/")}
    assert len(set(archived)) == len(archived)
    assert len(archived) < 3 * len([step for step in forms if step.startswith("8/")]), one


def test_bench_and_profile_by_stage() -> None:
    executable = clusters_artefact() / "clusters"
    options = ["--size", "50x40", "--threads", "1"]
    found = json.loads(subprocess.run([executable, "--bench", "2", *options], capture_output=True).stdout)
    assert (found["width"], found["height"], found["rounds"]) == (50, 40, 2)
    found = json.loads(subprocess.run([executable, "--profile", "2", *options], capture_output=True).stdout)
    named = [executable, "-", "--profile", "2", "--threads", "1"]
    done = subprocess.run(named, input=encode_ppm(textures(30, 70)), capture_output=True)
    assert (json.loads(done.stdout)["width"], json.loads(done.stdout)["height"]) == (70, 30)
    stages = found["stages"]
    assert set(stages) == {"decision_ms", "gather_ms", "merge_ms", "bodies_ms"}
    assert set(stages["bodies_ms"]) == {"8", "4"}
    of_steps = sum(step["latency_ms"] for step in found["steps"])
    whole = stages["decision_ms"] + stages["gather_ms"] + stages["merge_ms"] + sum(stages["bodies_ms"].values())
    assert 0 < of_steps < whole


def test_memory_limits_hold_or_are_refused(tmp_path: Path) -> None:
    image = textures(60, 80)
    executable = edges_artefact() / "edges"
    (tmp_path / "in.ppm").write_bytes(encode_ppm(image))
    wide = tmp_path / "wide.ppm"
    wide.write_bytes(encode_ppm(np.zeros((16, 30000, 3), np.uint8)))
    words = [executable, tmp_path / "in.ppm", tmp_path / "out.ppm", "--memory", "1"]
    assert subprocess.run(words, capture_output=True).returncode == 0
    small = clusters_artefact() / "clusters"
    done = subprocess.run([small, wide, tmp_path / "never.ppm", "--memory", "1"], capture_output=True)
    assert done.returncode == 2
    assert b"the patches of this image need more than 1024 KiB" in done.stderr
    assert not (tmp_path / "never.ppm").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-", "-", "--decisions"], "--decisions needs an input and no output"),
        (["--decisions"], "--decisions needs an input and no output"),
        (["absent.ppm", "--decisions"], "absent.ppm: No such file"),
    ],
)
def test_mistakes_are_one_line(words: list[str], line: str) -> None:
    done = subprocess.run([edges_artefact() / "edges", *words], capture_output=True, input=b"", text=False)
    assert done.returncode == 2
    assert line in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_verify_passes_and_tampering_is_seen(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(edges_artefact(), tmp_path / "copy"))
    assert verify(copy).ok
    assert read_manifest(copy)["levels"] == ["8", "5", "3"]
    for name in ("edges", "params.bin", "patches.json", "levels/1/program.safetensors"):
        original = (copy / name).read_bytes()
        (copy / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        assert verify(copy).problems == (f"{name} differs from its SHA-256 in manifest.json",)
        if name.startswith("levels"):  # also where the manifest was made to fit
            manifest = read_manifest(copy)
            write_manifest(copy, {**manifest, "files": digests(copy)})
            assert "is damaged" in verify(copy).problems[0]
        (copy / name).write_bytes(original)


def test_the_same_configuration_gives_the_same_bytes(tmp_path: Path) -> None:
    again = build_patch_artefact(
        StoredPatches.load(clusters_artefact()), tmp_path / "b", load_target("host"), name="clusters", choose=plain
    )
    for path in clusters_artefact().rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert (again / path.relative_to(clusters_artefact())).read_bytes() == data, path.name
            assert str(tmp_path.parent).encode() not in data


def test_what_cannot_be_built_is_refused_before_compiling(tmp_path: Path) -> None:
    gpu, host = load_target("mali-g78"), load_target("host")
    with pytest.raises(QsearchError, match="mali-g78 is a GPU"):
        build_patch_artefact(edges(), tmp_path / "out", gpu, name="net")
    with pytest.raises(QsearchError, match="C prefix"):
        build_patch_artefact(edges(), tmp_path / "out", host, name="a net")
    assert list(tmp_path.iterdir()) == []


_BUILD = """
import sys
from qsearch.compile import artefact
from qsearch.patches.artefact import build_patch_artefact
from qsearch.patches.stored import StoredPatches
from qsearch.target import load_target
print("ready", flush=True)
build_patch_artefact(StoredPatches.load(sys.argv[1]), sys.argv[2], load_target("host"), name="net")
"""


def test_a_killed_build_leaves_nothing_that_looks_like_an_artefact(tmp_path: Path) -> None:
    clusters().save(tmp_path / "patches")
    out = tmp_path / "out"
    words = [sys.executable, "-c", _BUILD, str(tmp_path / "patches"), str(out)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    while not out.exists() and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    assert list(out.iterdir()) == []
    with pytest.raises(QsearchError, match="not an artefact"):
        verify(out)
    build_patch_artefact(StoredPatches.load(tmp_path / "patches"), out, load_target("host"), name="net", choose=plain)
    assert verify(out).ok
