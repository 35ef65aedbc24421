"""Artefacts for processors that this machine has not: emulated where it can be, honest where it cannot."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from qsearch.compile import emulation
from qsearch.compile.artefact import build_artefact
from qsearch.compile.emulation import CannotRunError, command, executable_arch, require_native
from qsearch.compile.manifest import read_manifest
from qsearch.compile.run_artefact import run_binary, run_executable, verify
from qsearch.errors import QsearchError
from qsearch.host import Host
from qsearch.target import load_target
from tests.artefacts import noise, small_artefact, small_program
from tests.random_programs import reference

_FOREIGN = [name for name in ("raspberry-pi-5", "raspberry-pi-2") if load_target(name).arch != load_target("host").arch]


@pytest.fixture(scope="module", params=_FOREIGN)
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact of another architecture."""
    folder = tmp_path_factory.mktemp("foreign") / "artefact"
    return build_artefact(small_program(), folder, load_target(request.param), name="small")


def require_emulator(artefact: Path) -> None:
    arch = read_manifest(artefact)["target"]["arch"]
    if emulation.emulator(arch) is None:
        pytest.skip(f"no emulator of {arch} is installed ({emulation.PACKAGE})")


def test_the_reference_bytes_under_emulation(foreign: Path) -> None:
    require_emulator(foreign)
    manifest = read_manifest(foreign)
    assert manifest["verified"]["ok"]
    assert manifest["verified"]["by"].startswith("qemu")
    assert verify(foreign).ok
    assert verify(foreign).runner == manifest["verified"]["by"]
    image = noise(30, 41)
    expected = reference(small_program(), image)
    for threads, tile in ((1, None), (3, 17)):
        assert np.array_equal(run_executable(foreign, image, threads, tile), expected)
    size = (foreign / "small").stat().st_size - (foreign / "params.bin").stat().st_size
    assert size <= 100_000  # the bound of real networks is 90 000: this one has few layers alike


def test_a_processor_without_the_instructions_is_told_so(foreign: Path) -> None:
    require_emulator(foreign)
    if read_manifest(foreign)["target"]["isa"] != "arm_dotprod":
        pytest.skip("every processor that qemu emulates for this architecture has the instructions")
    with pytest.raises(CannotRunError, match=r"this processor has no dot product \(asimddp\)"):
        run_binary(foreign / "small", noise(9, 9), emulated_cpu="cortex-a53")


@pytest.mark.parametrize("isa", ["generic", "portable_c"])
def test_instruction_sets_of_last_resort(isa: str, tmp_path: Path) -> None:
    target = load_target("raspberry-pi-3").model_copy(update={"wanted_isa": isa})
    folder = build_artefact(small_program(), tmp_path / "out", target, name="small")
    require_emulator(folder)
    image = noise(19, 23)
    assert np.array_equal(run_executable(folder, image), reference(small_program(), image))


def test_without_an_emulator_everything_else_is_still_verified(
    foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulation, "emulator", lambda arch: None)
    arch, here = (load_target(name).arch for name in (read_manifest(foreign)["target"]["name"], "host"))
    found = verify(foreign)
    assert found.ok
    assert found.runner == ""
    assert f"is for {arch} and this machine is {here}: install qemu-user" in found.not_run
    with pytest.raises(QsearchError, match=f"is for {arch} and this machine is {here}"):
        run_executable(foreign, noise(5, 5))
    target = load_target(read_manifest(foreign)["target"]["name"])
    again = build_artefact(small_program(), tmp_path / "again", target, name="small")
    verified = read_manifest(again)["verified"]
    assert not verified["ok"]
    assert verified["reason"].startswith(f"small is for {arch}")
    broken = Path(shutil.copytree(foreign, tmp_path / "broken"))
    (broken / "small").write_bytes(b"\x7fELF")
    assert verify(broken).problems == ("small differs from its SHA-256 in manifest.json",)


def test_a_foreign_executable_is_never_taken_for_native(foreign: Path) -> None:
    assert executable_arch(foreign / "small") == read_manifest(foreign)["target"]["arch"]
    with pytest.raises(QsearchError, match=r"is for \w+ and this machine is \w+: run it on the device"):
        require_native(foreign / "small")
    require_native(small_artefact() / "small")


def test_what_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\necho hello, this is not an executable\n")
    with pytest.raises(QsearchError, match="script: it is not an ELF executable"):
        command(tmp_path / "script")
    with pytest.raises(QsearchError, match="absent: No such file"):
        command(tmp_path / "absent")
    monkeypatch.setattr(emulation, "detect_host", lambda: Host("riscv64", "a board", frozenset(), 1))
    monkeypatch.setattr(emulation, "emulator", lambda arch: None)
    with pytest.raises(CannotRunError, match=r"small is for .* and this machine is riscv64: install qemu-user"):
        command(small_artefact() / "small")
