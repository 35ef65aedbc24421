"""The artefact: complete, deterministic, equal to the reference byte for byte, and verified."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from qsearch.allocation import Allocation
from qsearch.compile import golden as golden_module
from qsearch.compile.artefact import build_artefact
from qsearch.compile.manifest import digests, read_manifest, record_latency, write_manifest
from qsearch.compile.run_artefact import run_executable, upscale, verify
from qsearch.errors import QsearchError
from qsearch.images import read_image, save_image
from qsearch.integer.storage import load_program
from qsearch.measure import open_device
from qsearch.target import Limits, load_target
from tests.artefacts import ALLOCATION, noise, small_artefact, small_program
from tests.random_programs import Layer, build_program, random_program, reference


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_artefact(), tmp_path / "copy"))


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (41, 53)])
@pytest.mark.parametrize(("threads", "tile"), [(None, None), (1, 14), (2, 20), (3, 33), (None, 52)])
def test_every_size_thread_count_and_tile_gives_the_reference_bytes(
    size: tuple[int, int], threads: int | None, tile: int | None
) -> None:
    image = noise(*size)
    expected = reference(small_program(), image)
    assert np.array_equal(run_executable(small_artefact(), image, threads, tile), expected)


def test_random_programs_give_the_reference_bytes(tmp_path: Path) -> None:
    for seed in (1, 2):
        program = random_program(seed)
        for name, value in list(program.named_buffers()):
            setattr(program, name, value.clone())
        folder = build_artefact(program, tmp_path / f"{seed}", load_target("host"), name=f"net{seed}")
        image = noise(33, 38)
        for tile in (None, 23):
            assert np.array_equal(run_executable(folder, image, tile=tile), reference(program, image))


def test_the_folder_is_complete_and_says_what_it_is() -> None:
    folder = small_artefact()
    manifest = read_manifest(folder)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) | {"manifest.json"} == files
    assert {"small", "small.h", "libsmall.a", "params.bin", "program.json", "allocation.json", "LICENCES.txt"} < files
    assert Allocation.load(folder / "allocation.json") == ALLOCATION
    assert manifest["float_islands"] == []
    assert manifest["upscale"] == 3
    assert manifest["halo"] == 5
    assert manifest["psnr"]["psnr_y_db"] == 30.0
    assert manifest["provenance"]["model"] == "random"
    assert all(manifest["provenance"].values())
    image = noise(9, 9)
    assert np.array_equal(reference(load_program(folder), image), reference(small_program(), image))


def test_the_executable_is_static_and_small() -> None:
    data = (small_artefact() / "small").read_bytes()
    assert len(data) - (small_artefact() / "params.bin").stat().st_size <= 90_000
    assert b"ld-linux" not in data
    assert b"ld-musl" not in data


def test_the_same_arguments_give_the_same_bytes_without_paths_of_the_machine(tmp_path: Path) -> None:
    target = load_target("host")
    psnr = {"psnr_y_db": 30.0, "protocol": "none: random weights"}
    again = build_artefact(
        small_program(), tmp_path / "b", target, name="small", allocation=ALLOCATION, model="random", psnr=psnr
    )
    for path in small_artefact().rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert (again / path.relative_to(small_artefact())).read_bytes() == data, path.name
            for place in (str(Path.home()), str(tmp_path.parent), str(Path(__file__).parents[2])):
                assert place.encode() not in data, f"{path.name} names {place}"


def test_verify_passes_and_names_a_tampered_file(copy: Path) -> None:
    assert verify(copy).ok
    assert verify(copy).files == len(read_manifest(copy)["files"])
    for name in ("small", "params.bin", "golden/output.ppm", "program.safetensors", "small.h"):
        original = (copy / name).read_bytes()
        (copy / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        found = verify(copy)
        assert not found.ok
        assert found.problems == (f"{name} differs from its SHA-256 in manifest.json",)
        (copy / name).write_bytes(original)
    (copy / "allocation.json").unlink()
    assert verify(copy).problems == ("allocation.json is missing",)


def test_verify_runs_both_executors(copy: Path) -> None:
    """With checksums that fit, wrong bytes are still found, for the executable and for the integer program."""
    wrong = (copy / "golden/output.ppm").read_bytes()
    (copy / "golden/output.ppm").write_bytes(wrong[:-1] + bytes([wrong[-1] ^ 1]))
    manifest = read_manifest(copy)
    write_manifest(copy, {**manifest, "files": digests(copy)})
    problems = verify(copy).problems
    assert [problem.split(" does not")[0] for problem in problems] == ["the integer reference", "small", "small"]
    assert "in tiles: 1 bytes differ" in problems[2]


def test_an_edited_manifest_is_seen(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "psnr": {"psnr_y_db": 99.0}}))
    with pytest.raises(QsearchError, match=r"manifest\.json differs from its own checksum"):
        verify(copy)


def test_what_is_not_an_artefact(tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match=r"not an artefact: it has no manifest\.json"):
        verify(tmp_path)
    for text in ('{"format": 99}', '{"format": 1}', "[]"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(QsearchError, match="not a manifest of format"):
            verify(tmp_path)


def test_upscale_a_photo(tmp_path: Path) -> None:
    image = noise(20, 31)
    save_image(tmp_path / "photo.png", image)
    found = upscale(small_artefact(), tmp_path / "photo.png", tmp_path / "big.png", threads=2, tile=18)
    assert (found.height, found.width) == (60, 93)
    assert np.array_equal(read_image(tmp_path / "big.png"), reference(small_program(), image))
    (tmp_path / "notes.png").write_text("no image")
    with pytest.raises(QsearchError, match=r"notes\.png"):
        upscale(small_artefact(), tmp_path / "notes.png", tmp_path / "never.png")
    with pytest.raises(QsearchError, match="tile of 3 pixels is too small"):
        upscale(small_artefact(), tmp_path / "photo.png", tmp_path / "never.png", tile=3)
    assert not (tmp_path / "never.png").exists()


def test_an_existing_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    with pytest.raises(QsearchError, match="not empty"):
        build_artefact(small_program(), tmp_path / "out", load_target("host"), name="small")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        golden_module, "run_reference", lambda folder, image: noise(image.shape[0] * 3, image.shape[1] * 3)
    )
    with pytest.raises(QsearchError, match="differs from the integer reference: small does not give"):
        build_artefact(small_program(), tmp_path / "out", load_target("host"), name="small")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(QsearchError, match="C prefix"):
        build_artefact(small_program(), tmp_path / "out", load_target("host"), name="a net")
    program = build_program([Layer(8, stride=2), Layer(3, shuffle=4)], 0)
    with pytest.raises(QsearchError, match="padded convolutions without strides"):
        build_artefact(program, tmp_path / "out", load_target("host"), name="net")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_does_not_fit_is_refused_before_compiling(tmp_path: Path) -> None:
    program = build_program([*[Layer(8, kernel=(9, 9))] * 6, Layer(64, shuffle=4), Layer(3, kernel=(1, 1))], 0)
    target = load_target("host").model_copy(update={"limits": Limits(memory_bytes=1 << 20)})
    with pytest.raises(QsearchError, match=r"host has 1\.00 MiB .* tile of this network, 51x51 pixels, needs 2\."):
        build_artefact(program, tmp_path / "out", target, name="net")
    assert list(tmp_path.iterdir()) == []


def test_weaker_instruction_sets_and_the_memory_limit_of_a_target(tmp_path: Path) -> None:
    target = load_target("host")
    basic = target.model_copy(update={"features": (), "limits": Limits(memory_bytes=1 << 20)})
    folder = build_artefact(small_program(), tmp_path / "basic", basic, name="basic")
    assert read_manifest(folder)["target"]["isa"] == "generic"
    assert read_manifest(folder)["memory_limit_bytes"] == 1 << 20
    image = noise(150, 170)
    assert np.array_equal(run_executable(folder, image), reference(small_program(), image))
    done = subprocess.run([folder / "basic", "--bench", "1", "--size", "900x900"], capture_output=True)
    images = 900 * 900 * 3 * 10
    assert json.loads(done.stdout)["peak_rss_bytes"] < images + (3 << 20)


def test_a_measured_latency_is_recorded_with_its_conditions(copy: Path) -> None:
    device = open_device(load_target("host"))
    for _ in range(2):
        record_latency(copy, device.bench(copy, rounds=2, size=(20, 30), threads=1))
    record_latency(copy, device.bench(copy, rounds=2, size=(20, 30), threads=2))
    entries = read_manifest(copy)["latency"]
    assert [entry["conditions"]["threads"] for entry in entries] == [1, 2]
    assert entries[0]["latency_ms"] > 0
    assert entries[0]["conditions"]["size"] == [20, 30]
    assert verify(copy).ok
