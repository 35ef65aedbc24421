"""Devices: what every kind promises, and what each refuses."""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qsearch.compile.manifest import digests, read_manifest, write_manifest
from qsearch.compile.run_artefact import run_reference
from qsearch.errors import QsearchError
from qsearch.measure import Device, DeviceLostError, open_device
from qsearch.target import Target, load_target
from tests.artefacts import noise, small_artefact
from tests.measure.boards import arm_target, artefact_for, host_target, our_board

KINDS = ("local", "command", "emulated", "tvm_server", "our_server", "emulated_server")


def target_of(kind: str, request: pytest.FixtureRequest, **more: object) -> Target:
    """A target of each kind; `more` are further keys of its reach."""
    if kind == "local":
        return host_target({"kind": kind, **more})
    if kind == "command":
        folder = request.getfixturevalue("tmp_path_factory").mktemp("there")
        commands = {"copy": "cp {source} {destination}", "run": "sh -c {command}", "folder": str(folder)}
        return host_target({"kind": kind, **commands, **more})
    if kind == "emulated":
        return arm_target({"kind": kind, **more})
    reach = {"kind": "rpc", "tracker": request.getfixturevalue("tracker"), "key": request.getfixturevalue(kind)}
    if kind == "emulated_server":
        return arm_target({**reach, "emulator": "qemu-aarch64", **more})
    return host_target({**reach, **more})


@pytest.fixture(params=KINDS)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    with open_device(target_of(request.param, request)) as opened:
        yield opened


def test_every_device_gives_the_same_bytes(device: Device) -> None:
    artefact = artefact_for(device.target)
    found = device.verify(artefact)
    assert found.ok, found.problems
    image = noise(17, 23)
    assert np.array_equal(device.run(artefact, image), run_reference(artefact, image))
    assert np.array_equal(device.run(artefact, image, tile=13), device.run(artefact, image))
    device.forget(artefact)
    assert device.run(artefact, image).shape == (51, 69, 3)


def test_every_device_gives_latency_with_conditions_or_refuses(device: Device) -> None:
    artefact = artefact_for(device.target)
    options = {"rounds": 3, "size": (24, 40), "threads": 1}
    if device.emulated:
        with pytest.raises(QsearchError, match="emulated time is never a latency"):
            device.bench(artefact, **options)
        return
    found = device.bench(artefact, reference=artefact, **options)
    assert 0 < found.min_ms <= found.latency_ms <= found.high_ms
    assert 100_000 < found.peak_rss_bytes < 100 << 20
    assert found.ratio is not None
    assert found.ratio.low <= found.ratio.median <= found.ratio.high
    assert not found.converged, "three rounds say nothing about a median"
    conditions = found.conditions
    assert (conditions.size, conditions.threads, conditions.rounds) == ((24, 40), 1, 3)
    assert (conditions.device, conditions.cpu) == ("host", device.target.cpu)
    assert len(conditions.temperature_c) == len(conditions.frequency_mhz) == 2


def test_every_device_times_a_picture(device: Device) -> None:
    if not device.emulated:
        artefact = artefact_for(device.target)
        found = device.bench(artefact, rounds=1, threads=1, reference=artefact, image=noise(17, 23))
        assert found.conditions.size == (17, 23)


def test_every_device_refuses_what_it_cannot_run(device: Device, tmp_path: Path) -> None:
    with pytest.raises(QsearchError, match=r"manifest\.json"):
        device.verify(tmp_path)
    artefact = artefact_for(device.target)
    with pytest.raises(QsearchError, match=r"cannot run small: .* a tile of 1 pixels is too small"):
        device.run(artefact, noise(20, 20), tile=1)
    broken = tmp_path / "broken"
    shutil.copytree(artefact, broken)
    with (broken / "small").open("r+b") as file:
        file.seek(3000)
        file.write(b"tampered")
    assert any("small differs from its SHA-256" in problem for problem in device.verify(broken).problems)
    with pytest.raises(QsearchError, match=r"cannot run .*: small differs from its SHA-256"):
        device.run(broken, noise(20, 20))
    (broken / "small").write_text("not an executable")
    with pytest.raises(QsearchError, match=r"cannot run .*small: it is not an ELF executable"):
        device.run(broken, noise(20, 20))


def test_a_binary_for_another_architecture_is_not_even_copied() -> None:
    target = arm_target({"kind": "command", "copy": "false {source} {destination}", "run": "false {command}"})
    with pytest.raises(QsearchError, match="it is for x86_64 and the device is aarch64; compile with --target arm"):
        open_device(target).run(small_artefact(), noise(20, 20))


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_that_never_ends_is_ended(kind: str, request: pytest.FixtureRequest) -> None:
    with open_device(target_of(kind, request, timeout_s=1.0)) as device:
        with pytest.raises(DeviceLostError, match=r"did not (answer|finish) within 1 s"):
            device.shell.run("sleep 100")
        assert device.shell.run("cat; echo back", b"and ").stdout == b"and back\n"


def test_a_device_that_answers_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        tracker = f"127.0.0.1:{silent.getsockname()[1]}"
        device = open_device(host_target({"kind": "rpc", "tracker": tracker, "key": "any", "timeout_s": 0.5}, "board"))
        with pytest.raises(DeviceLostError, match=rf"RPC tracker {tracker} did not answer within 0\.5 s"):
            device.verify(small_artefact())


def test_a_host_that_cannot_be_reached() -> None:
    commands = {"copy": "cp {source} {destination}", "run": "sh -c 'echo no route to board >&2; exit 255' {command}"}
    device = open_device(host_target({"kind": "command", **commands, "retries": 1}, "board"))
    with pytest.raises(DeviceLostError, match=r"device board cannot be reached: .* says: no route to board"):
        device.verify(small_artefact())
    missing = open_device(
        host_target({"kind": "command", "copy": "no-scp {source} {destination}", "run": "sh -c {command}"})
    )
    with pytest.raises(QsearchError, match="cannot run no-scp: No such file"):
        missing.verify(small_artefact())
    missing.close()


def test_a_command_device_is_left_as_it_was(tmp_path: Path) -> None:
    commands = {"copy": "cp {source} {destination}", "run": "sh -c {command}", "folder": str(tmp_path)}
    with open_device(host_target({"kind": "command", **commands})) as device:
        device.verify(small_artefact())
        assert len(list(tmp_path.glob("*/small-*"))) == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_bytes_are_found(tmp_path: Path) -> None:
    """An artefact whose golden output is another picture, and whose manifest says so."""
    copy = tmp_path / "copy"
    shutil.copytree(small_artefact(), copy)
    manifest = read_manifest(copy)
    golden = copy / manifest["golden"]["output"]
    picture = golden.read_bytes()
    golden.write_bytes(picture[:-1] + bytes([picture[-1] ^ 1]))
    write_manifest(copy, {**manifest, "files": digests(copy)})
    found = open_device(load_target("host")).verify(copy)
    assert found.problems[0] == "1 bytes differ in one piece on device host"


def test_a_target_that_this_machine_is_not() -> None:
    target = load_target("host")
    other = "aarch64" if target.arch == "x86_64" else "x86_64"
    with pytest.raises(QsearchError, match="cannot be reached as local: this machine is"):
        open_device(target.model_copy(update={"arch": other, "features": ()}))
    with pytest.raises(QsearchError, match="lacks amx_tile"):
        open_device(target.model_copy(update={"features": ("amx_tile",)}))


def test_a_missing_emulator() -> None:
    with pytest.raises(QsearchError, match="cannot be emulated: qemu-nothing is not installed; install qemu-user"):
        open_device(arm_target({"kind": "emulated", "emulator": "qemu-nothing"}))


def test_rpc_without_tracker_or_board(tracker: str) -> None:
    def device(address: str, key: str = "nobody") -> Device:
        return open_device(host_target({"kind": "rpc", "tracker": address, "key": key, "timeout_s": 1.0}))

    with pytest.raises(DeviceLostError, match=r"RPC tracker 127\.0\.0\.1:1 is lost: Connection refused"):
        device("127.0.0.1:1").verify(small_artefact())
    with pytest.raises(DeviceLostError, match="knows no board nobody"):
        device(tracker).verify(small_artefact())


def test_a_board_that_falls_silent_or_dies(tracker: str) -> None:
    with our_board(tracker, "mortal") as server:
        reach = {"kind": "rpc", "tracker": tracker, "key": "mortal", "timeout_s": 1.0, "retries": 0}
        device = open_device(host_target(reach))
        device.run(small_artefact(), noise(20, 20))
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        with pytest.raises(DeviceLostError, match=r"device host is lost|knows no board mortal"):
            device.run(small_artefact(), noise(20, 20))
    with our_board(tracker, "mortal"):
        device.run(small_artefact(), noise(20, 20))
        device.close()
