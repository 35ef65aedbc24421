"""The command line: every mistake is one clear line and exit status 2, and leaves everything as it was."""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qsearch.allocation import Allocation
from qsearch.compile.manifest import read_manifest
from qsearch.images import read_image, save_image
from qsearch.models import build
from tests import tiny
from tests.command_line import command, contents, refuse, succeed
from tests.small_networks import random_images
from tests.tiny import TINY

QUICK = ("--limit", 1)
COMMANDS = [
    *("demo", "train", "eval", "quantize", "finetune", "search", "select"),
    *("compile", "verify", "bench", "upscale", "report", "targets"),
    *("profile", "lint", "patches", "search-patches"),
    *("rpc-tracker", "rpc-server"),
]
FACTORIES = tiny.__file__


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good things: `quantized`, `artefact`, `run` and `photo.png`. Do not change them."""
    folder = tmp_path_factory.mktemp("work")
    succeed("quantize", TINY, "--out", folder / "quantized", "--bits", "w6a8", "--onnx", "exact", *QUICK)
    succeed("compile", folder / "quantized", "--out", folder / "artefact")
    search = ("--objectives", "psnr_y_db,latency_ms", "--size", "64x48", *QUICK)
    succeed("search", TINY, "--out", folder / "run", "--trials", 4, *search)
    save_image(folder / "photo.png", random_images(1, 40, 56)[0])
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder in which refused commands must leave nothing: no output, no hidden temporary file."""
    yield tmp_path
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))]
    assert left == [], f"left behind: {left}"


# Every command, when all is well


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does(name: str) -> None:
    done = command(name, "--help")
    assert done.status == 0
    assert f"qsearch {name}" in done.out
    assert len(done.out.splitlines()) > 6


def test_help_lists_every_command() -> None:
    out = command("--help").out
    assert [name for name in COMMANDS if name not in out] == []


def test_targets() -> None:
    (host,) = (target for target in succeed("targets")["targets"] if target["name"] == "host")
    assert host["threads"] >= 1
    assert succeed("targets", "host")["targets"] == [host]


def test_eval_of_a_network_and_of_its_artefact(work: Path) -> None:
    floating = succeed("eval", TINY, *QUICK)
    compiled = succeed("eval", work / "artefact", *QUICK)
    assert floating["images"] == compiled["images"] == 1
    assert floating["psnr_y_db"] == pytest.approx(compiled["psnr_y_db"], abs=0.5)
    assert "cropped" in floating["protocol"]


def test_quantize_and_compile_tell_the_same_psnr(work: Path) -> None:
    summary = json.loads((work / "quantized" / "quantized.json").read_text())
    assert read_manifest(work / "artefact")["psnr"] == summary["score"]
    assert summary["costs"]["bitops"] > 0
    assert (work / "quantized" / "model.onnx").is_file()
    allocation = Allocation.load(work / "quantized" / "allocation.json")
    assert allocation.bits("conv1.weight") == 6


def test_an_allocation_file_gives_the_same_network(work: Path, tmp_path: Path) -> None:
    allocation = work / "quantized" / "allocation.json"
    succeed("quantize", TINY, "--out", tmp_path / "again", "--allocation", allocation, *QUICK)
    same = ("program.json", "program.safetensors", "allocation.json")
    for name in same:
        assert (tmp_path / "again" / name).read_bytes() == (work / "quantized" / name).read_bytes()


def test_verify_bench_and_upscale(work: Path, tmp_path: Path) -> None:
    artefact = Path(shutil.copytree(work / "artefact", tmp_path / "artefact"))
    assert succeed("verify", artefact)["ok"] is True
    found = succeed("bench", artefact, "--size", "40x30", "--rounds", 2)
    assert found["conditions"]["size"] == [30, 40]
    assert len(read_manifest(artefact)["latency"]) == 1
    found = succeed("bench", artefact, "--image", work / "photo.png", "--rounds", 1)
    assert (found["conditions"]["size"], found["conditions"]["picture"]) == ([40, 56], "photo.png")
    assert len(read_manifest(artefact)["latency"]) == 2
    whole = succeed("upscale", work / "photo.png", "--artefact", artefact, "-o", tmp_path / "big.png")
    assert (whole["height"], whole["width"]) == (80, 112)
    succeed("upscale", work / "photo.png", "--artefact", artefact, "-o", tmp_path / "tiled.png", "--tile", 20)
    assert np.array_equal(read_image(tmp_path / "tiled.png"), read_image(tmp_path / "big.png"))


def test_bench_against_other_runtimes(work: Path, tmp_path: Path) -> None:
    quick = ("--size", "40x30", "--rounds", 1, "--threads", 1)
    page = tmp_path / "peers.html"
    found = succeed("bench", work / "artefact", "--against", "torch", "--model", TINY, "--report", page, *quick)
    assert [row["name"] for row in found["rows"]] == ["qsearch", "torch"]
    assert "PyTorch FP32" in page.read_text()
    assert len(succeed("bench", "abpn_f8_x2", "--against", "onnxruntime", *quick)["rows"]) == 2
    assert "give it by --model" in refuse("bench", work / "artefact", "--against", "torch", *quick)
    assert "no peer 'tensorrt': known are litert" in refuse("bench", TINY, "--against", "tensorrt", *quick)


def test_an_artefact_of_ones_own_target_is_timed_with_that_target(work: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('name = "mine"\narch = "detect"\ncpu = "mine"\nfeatures = []\nthreads = 1\n')
    succeed("compile", work / "quantized", "--out", tmp_path / "artefact", "--target", mine)
    assert read_manifest(tmp_path / "artefact")["target"]["isa"] == "generic"
    refuse("bench", tmp_path / "artefact", "--size", "40x30", "--rounds", 1)
    found = succeed("bench", tmp_path / "artefact", "--size", "40x30", "--rounds", 1, "--target", mine)
    assert (found["conditions"]["device"], found["conditions"]["threads"]) == ("mine", 1)


def test_search_select_and_report(work: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(work / "run", tmp_path / "run"))
    chosen = succeed("select", run, "--max-latency-ms", 1e6)
    assert chosen["run"] == str(run)
    page = Path(succeed("report", run, "--out", tmp_path / "page.html")["report"])
    assert page.read_text().startswith("<!")
    assert succeed("compile", run, "--out", tmp_path / "artefact", "--name", "winner")["psnr_y_db"] > 0
    assert (tmp_path / "artefact" / "winner.h").is_file()


# Pictures


def bad_picture(kind: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{kind}.png"
    save_image(path, random_images(1, 96, 96)[0])
    path.write_bytes({"truncated": path.read_bytes()[:2000], "text": b"not a picture\n", "empty": b""}[kind])
    return path


@pytest.mark.parametrize("kind", ["truncated", "text", "empty"])
def test_a_bad_picture_is_named(work: Path, place: Path, kind: str) -> None:
    photo = bad_picture(kind, place / "pictures")
    before = contents(place)
    for arguments in (
        ("upscale", photo, "--artefact", work / "artefact", "-o", place / "out.png"),
        ("quantize", TINY, "--out", place / "out", "--images", photo.parent),
        ("quantize", TINY, "--out", place / "out", "--calibration", photo.parent, *QUICK),
        ("search", TINY, "--out", place / "out", "--trials", 2, "--images", photo.parent),
        ("eval", TINY, "--images", photo.parent),
    ):
        assert photo.name in refuse(*arguments)
    assert contents(place) == before


def test_folders_without_pictures(place: Path) -> None:
    (place / "none").mkdir()
    for folder, words in ((place / "none", "holds no image"), (place / "absent", "does not exist")):
        assert words in refuse("eval", TINY, "--images", folder)
        assert words in refuse("quantize", TINY, "--out", place / "out", "--calibration", folder, *QUICK)
        assert words in refuse("search", TINY, "--out", place / "out", "--trials", 2, "--calibration", folder, *QUICK)


def test_pictures_that_are_too_small(place: Path) -> None:
    (place / "small").mkdir()
    save_image(place / "small" / "dot.png", random_images(1, 10, 12)[0])
    message = refuse("quantize", TINY, "--out", place / "out", "--calibration", place / "small", *QUICK)
    assert "12x10 pixels is too small: at least 16x16" in message
    for arguments in (
        ("eval", TINY),
        ("quantize", TINY, "--out", place / "out"),
        ("search", TINY, "--out", place / "out", "--trials", 2),
    ):
        assert "image dot of 12x10 pixels is too small" in refuse(*arguments, "--images", place / "small")


def test_an_unknown_picture_format_is_refused(work: Path, place: Path) -> None:
    message = refuse("upscale", work / "photo.png", "--artefact", work / "artefact", "-o", place / "out.xyz")
    assert ".xyz is no known format" in message


# Networks


class Surprise:
    """Unpickling it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_pickle_is_not_run(place: Path) -> None:
    path = place / "model.pt"
    torch.save({"state_dict": Surprise(place / "surprise")}, path)
    assert "is not run" in refuse("quantize", path, "--out", place / "out")
    path.write_bytes(pickle.dumps(Surprise(place / "surprise")))
    assert "model.pt" in refuse("eval", path)
    assert not (place / "surprise").exists()


def test_a_state_dict_that_does_not_fit_names_its_keys(place: Path) -> None:
    state = build("edsr_r1f8_x2").module.state_dict()
    key = "blocks.0.conv2.weight"
    lacking = {name: value for name, value in state.items() if name != key}
    torch.save(lacking, place / "lacking.pt")
    assert key in refuse("quantize", place / "lacking.pt", "--out", place / "out")
    save_file({"classifier.weight": torch.zeros(3, 4)}, place / "other.safetensors")
    assert "classifier.weight" in refuse("eval", place / "other.safetensors")


@pytest.mark.parametrize(("kept", "name"), [(100, "cut.safetensors"), (100, "cut.pt"), (0, "empty.pt")])
def test_a_damaged_checkpoint_is_named(place: Path, kept: int, name: str) -> None:
    path = place / name
    state = build("edsr_r1f8_x2").module.state_dict()
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    path.write_bytes(path.read_bytes()[:kept])
    message = refuse("eval", path)
    assert name in message
    assert "damaged" in message


def test_weights_and_activations_that_are_not_numbers(place: Path) -> None:
    state = build("edsr_r1f8_x2").module.state_dict()
    key = next(key for key in state if key.endswith("bias"))
    state[key] = torch.full_like(state[key], torch.nan)
    torch.save(state, place / "nan.pt")
    message = refuse("search", place / "nan.pt", "--out", place / "out", "--trials", 2)
    assert key in message
    assert "NaN" in message
    assert "conv1.weight" in refuse("quantize", f"{FACTORIES}:not_a_number", "--out", place / "out")
    message = refuse("quantize", f"{FACTORIES}:overflowing", "--out", place / "out", *QUICK)
    assert message.startswith("site ")
    assert "NaN or infinity" in message


def test_an_unknown_operator_names_its_node(place: Path) -> None:
    for arguments in (("quantize", *QUICK), ("search", "--trials", 2, *QUICK)):
        name, *options = arguments
        message = refuse(name, f"{FACTORIES}:unknown_operator", "--out", place / "out", *options)
        assert "node 'sin'" in message


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("no_such_model", "abpn_x3"),
        ("absent.pt", "absent.pt does not exist"),
        ("absent.py:network", "absent.py does not exist"),
        (f"{FACTORIES}:absent", "has no function 'absent'"),
    ],
)
def test_an_unknown_model(place: Path, model: str, words: str) -> None:
    assert words in refuse("quantize", model, "--out", place / "out")
    assert words in refuse("eval", model)
    assert words in refuse("search", model, "--out", place / "out", "--trials", 2)


# Targets and allocations

GOOD_TARGET = 'name = "mine"\narch = "x86_64"\ncpu = "any"\nfeatures = []\nthreads = 2\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD_TARGET + "speed = 3\n", "speed: unknown key"),
        (GOOD_TARGET + "[limits]\nmemory = 3\n", "limits.memory: unknown key"),
        (GOOD_TARGET.replace("threads = 2", "threads = 0"), "threads"),
        (GOOD_TARGET.replace("x86_64", "z80"), "arch"),
        (GOOD_TARGET.replace("[]", '["mmx9"]'), "unknown CPU feature 'mmx9'"),
        (GOOD_TARGET + "[limits]\nmin_bits = 8\nmax_bits = 4\n", "min_bits 8 is above max_bits 4"),
        ("name = \n", "not valid TOML"),
        ("", "name"),
    ],
)
def test_a_target_file_is_checked(work: Path, place: Path, text: str, words: str) -> None:
    path = place / "mine.toml"
    path.write_text(text)
    for arguments in (
        ("targets", path),
        ("compile", work / "quantized", "--out", place / "out", "--target", path),
        ("search", TINY, "--out", place / "out", "--trials", 2, "--target", path),
    ):
        message = refuse(*arguments)
        assert words in message
        assert "mine.toml" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda sites: sites.pop("conv1.weight"), "lacks conv1.weight"),
        (lambda sites: sites.update({"conv9.weight": {"bits": 4}}), "has unknown conv9.weight"),
        (lambda sites: sites["up.input"].update(bits=9), "up.input.bits"),
        (lambda sites: sites["up.input"].update(bits=1), "up.input.bits"),
        (lambda sites: sites["up.input"].update(bits="many"), "up.input.bits"),
        (lambda sites: sites["up.input"].update(rounding="up"), "up.input.rounding"),
        (lambda sites: sites["up.input"].update(observer="guess"), "up.input.observer"),
        (lambda sites: sites["head.input"].update(bits=4), "head.input cannot have 4 bits"),
    ],
)
def test_an_allocation_file_is_checked(work: Path, place: Path, change: object, words: str) -> None:
    value = json.loads((work / "quantized" / "allocation.json").read_text())
    change(value["sites"])  # type: ignore[operator]
    (place / "allocation.json").write_text(json.dumps(value))
    message = refuse("quantize", TINY, "--out", place / "out", "--allocation", place / "allocation.json", *QUICK)
    assert words in message


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe\x00", b"[]", b'{"places": {}}'])
def test_an_allocation_file_of_another_kind(place: Path, content: bytes) -> None:
    path = place / "allocation.json"
    path.write_bytes(content)
    assert str(path) in refuse("quantize", TINY, "--out", place / "out", "--allocation", path, *QUICK)


def test_an_allocation_file_that_is_absent(place: Path) -> None:
    assert "absent.json" in refuse("quantize", TINY, "--out", place / "out", "--allocation", place / "absent.json")


# Folders


def test_a_folder_that_holds_something_is_kept(work: Path, tmp_path: Path) -> None:
    full = tmp_path / "out"
    full.mkdir()
    (full / "thesis.txt").write_text("precious")
    for arguments in (
        ("quantize", TINY, "--out", full, *QUICK),
        ("compile", work / "quantized", "--out", full),
        ("search", TINY, "--out", full, "--trials", 2),
        ("demo", "--out", full),
    ):
        assert str(full) in refuse(*arguments)
    assert contents(tmp_path) == {"out": None, "out/thesis.txt": b"precious"}


def test_another_search_is_not_mixed_in(work: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(work / "run", tmp_path / "run"))
    before = contents(run)
    message = refuse("search", TINY, "--out", run, "--trials", 4, "--objectives", "psnr_y_db,bitops", *QUICK)
    assert "holds another search: its objectives, size differ" in message
    assert contents(run) == before


@pytest.mark.parametrize("below", ["file", "proc"])
def test_a_place_that_cannot_be_written(work: Path, place: Path, below: str) -> None:
    (place / "file").write_text("a file")
    shut = {"file": place / "file", "proc": Path("/proc/1")}[below]
    run = Path(shutil.copytree(work / "run", place / "run"))
    succeed("select", run, "--max-latency-ms", 1e6)
    before = contents(place)
    slow = (
        ("quantize", TINY, "--out", shut / "out", *QUICK),
        ("search", TINY, "--out", shut / "out", "--trials", 2, *QUICK),
    )
    for arguments in (
        *(slow if below == "file" else ()),
        ("compile", work / "quantized", "--out", shut / "out"),
        ("upscale", work / "photo.png", "--artefact", work / "artefact", "-o", shut / "out.png"),
        ("report", run, "--out", shut / "out.html"),
    ):
        assert str(shut) in refuse(*arguments)
    assert contents(place) == before


# Runs, artefacts and limits


def test_a_limit_that_nothing_meets_names_the_nearest(work: Path) -> None:
    before = contents(work / "run")
    message = refuse("select", work / "run", "--max-latency-ms", "0.000001")
    assert "latency_ms at most" in message
    assert "the nearest is trial" in message
    assert "psnr_y_db" in refuse("select", work / "run", "--min-psnr-db", 99)
    assert contents(work / "run") == before


def test_select_and_compile_without_a_choice(work: Path, place: Path) -> None:
    assert "limit" in refuse("select", work / "run")
    assert "qsearch select" in refuse("compile", work / "run", "--out", place / "out")
    assert "no finished point 999" in refuse("compile", work / "run", "--out", place / "out", "--point", 999)
    assert "neither a run" in refuse("compile", place, "--out", place / "out")
    assert "holds no search" in refuse("report", place)
    assert "holds no search" in refuse("select", place, "--max-drop-db", 1)


def test_verify_names_the_tampered_file(work: Path, tmp_path: Path) -> None:
    artefact = Path(shutil.copytree(work / "artefact", tmp_path / "artefact"))
    data = bytearray((artefact / "params.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (artefact / "params.bin").write_bytes(data)
    assert "params.bin differs from its SHA-256" in refuse("verify", artefact)
    assert "not an artefact" in refuse("verify", work / "quantized")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--trials", 2, "--budget", "1m"), "either --budget (such as 10m) or --trials"),
        ((), "either --budget (such as 10m) or --trials"),
        (("--budget", "soon"), "'soon'"),
        (("--trials", 0), "positive"),
        (("--trials", 2, "--size", "big"), "size 'big'"),
        (("--trials", 2, "--size", "0x10"), "size '0x10'"),
        (("--trials", 2, "--objectives", "psnr_y_db,beauty"), "'beauty'"),
        (("--trials", 2, "--objectives", "bitops"), "psnr_y_db"),
        (("--trials", 2, "--target", "moon"), "'moon'"),
        (("--trials", 2, "--threads", 999), "999"),
    ],
)
def test_options_of_search_are_checked_first(place: Path, options: tuple[object, ...], words: str) -> None:
    assert words in refuse("search", TINY, "--out", place / "out", *QUICK, *options)


def test_options_of_quantize_are_checked_first(place: Path) -> None:
    for bits in ("w1a8", "w4a9", "8", "int8"):
        assert bits in refuse("quantize", TINY, "--out", place / "out", "--bits", bits, *QUICK)
    assert "qdq or exact" in refuse("quantize", TINY, "--out", place / "out", "--onnx", "fast", *QUICK)


def test_a_command_line_that_is_none_ends_with_status_2() -> None:
    for arguments in (("quantize",), ("fly",), ("eval", TINY, "--limit", 0), ("bench", ".", "--rounds", "x")):
        assert command(*arguments).status == 2


# Real processes


def test_exit_status_and_streams_of_real_processes(work: Path, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("qsearch")
    if not program.is_file():
        pytest.skip("the package is not installed with its command beside this Python")
    text = {"capture_output": True, "text": True, "check": False}
    good = subprocess.run([program, "verify", work / "artefact"], **text)  # type: ignore[call-overload]
    assert good.returncode == 0
    assert json.loads(good.stdout)["ok"] is True
    bad = subprocess.run([program, "eval", tmp_path / "absent.pt"], **text)  # type: ignore[call-overload]
    assert bad.returncode == 2
    assert bad.stdout == ""
    assert bad.stderr == f"error: checkpoint {tmp_path / 'absent.pt'} does not exist\n"
