"""The commands that need a device, and those that serve one."""

import shutil
from pathlib import Path

import pytest

from qsearch.cli.app import parse_share
from qsearch.compile.emulation import executable_arch
from qsearch.compile.manifest import read_manifest
from qsearch.errors import QsearchError
from tests.artefacts import small_artefact
from tests.command_line import command, refuse, succeed
from tests.measure.boards import arm_artefact, arm_target
from tests.tiny import TINY

ARM = """name = "arm"
arch = "aarch64"
cpu = "any"
features = ["asimd"]
threads = 2
[reach]
kind = "emulated"
"""


@pytest.fixture
def arm(tmp_path: Path) -> Path:
    arm_target({"kind": "emulated"})  # skips without qemu
    path = tmp_path / "arm.toml"
    path.write_text(ARM)
    return path


def test_bench_against_a_reference(tmp_path: Path) -> None:
    artefact = shutil.copytree(small_artefact(), tmp_path / "artefact")
    done = command("bench", artefact, "--reference", small_artefact(), "--size", "40x30", "--rounds", 2, "--ci", "50%")
    assert done.status == 0, done.err
    assert done.result["ratio"]["median"] > 0
    assert (done.result["converged"], done.result["ci_limit"]) == (False, 0.5)
    assert "2 rounds; not within 50%" in done.err
    assert "of the time of" in done.err
    assert read_manifest(artefact)["latency"][0]["ratio"] == done.result["ratio"]
    assert "'much' is not a share such as 2% or 0.02" in refuse("bench", artefact, "--ci", "much")


def test_verify_on_a_device_that_refuses_to_be_timed(arm: Path, tmp_path: Path) -> None:
    assert "golden bytes agree on device arm" in command("verify", arm_artefact(), "--target", arm).err
    copy = shutil.copytree(arm_artefact(), tmp_path / "copy")
    assert "emulated time is never a latency" in refuse("bench", copy, "--target", arm)
    assert "is for x86_64 and the device is aarch64" in refuse("verify", small_artefact(), "--target", arm)


def test_search_refuses_devices_that_cannot_give_what_it_asks(arm: Path, tmp_path: Path) -> None:
    latency = ("--trials", 2, "--objectives", "psnr_y_db,latency_ms", "--out", tmp_path / "out")
    assert "all of these are emulated" in refuse("search", TINY, *latency, "--device", arm)
    assert "all of these are emulated" in refuse("search", TINY, *latency, "--target", arm)
    assert "no target is named 'nobody'" in refuse("search", TINY, *latency, "--device", "nobody")
    assert not (tmp_path / "out").exists()


def test_the_server_for_a_board_is_one_static_file(arm: Path, tmp_path: Path) -> None:
    found = succeed("rpc-server", "--target", arm, "--out", tmp_path / "board")
    assert executable_arch(Path(found["server"])) == "aarch64"
    assert found["bytes"] < 200_000
    assert [file.name for file in (tmp_path / "board").iterdir()] == ["qsearch-board"]


def test_shares() -> None:
    assert (parse_share("2%"), parse_share("0.05")) == (0.02, 0.05)
    for text in ("0", "200%", "nan", "-1%", ""):
        with pytest.raises(QsearchError, match="is not a share"):
            parse_share(text)
