"""A tracker and boards on loopback, real processes; artefacts of `small_program` for them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from qsearch.compile.artefact import build_artefact
from qsearch.measure.board import build_server
from qsearch.measure.rpc_wire import registered_keys
from qsearch.target import Target, load_target
from tests.artefacts import small_artefact, small_program

_FOLDER = tempfile.TemporaryDirectory(prefix="qsearch-boards-")
QEMU = "qemu-aarch64"


def host_target(reach: dict[str, object], name: str = "host") -> Target:
    """This machine, reached in another way."""
    description = load_target("host").model_dump(by_alias=True)
    return Target.model_validate({**description, "name": name, "reach": reach})


def arm_target(reach: dict[str, object], name: str = "arm") -> Target:
    """An aarch64 board; the test is skipped where qemu-user is missing."""
    if shutil.which(QEMU) is None:
        pytest.skip(f"{QEMU} is not installed")
    arm = {"name": name, "arch": "aarch64", "cpu": "any", "features": ["asimd"], "threads": 2}
    return Target.model_validate({**arm, "reach": reach})


@cache
def arm_artefact() -> Path:
    """The artefact of `small_program` for `arm_target`. Do not change it."""
    folder = Path(_FOLDER.name) / "arm"
    return build_artefact(small_program(), folder, arm_target({"kind": "emulated"}), name="small")


def artefact_for(target: Target) -> Path:
    """The artefact of `small_program` for either."""
    return arm_artefact() if target.arch == "aarch64" else small_artefact()


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, and all that it started."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(list(map(str, command)), stdout=quiet, stderr=quiet, start_new_session=True) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def tracker_process() -> Iterator[str]:
    """TVM's tracker on a free port of loopback; gives its address."""
    for package in ("tornado", "cloudpickle", "psutil"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed (the extra rpc)")
    port = free_port()
    with running(sys.executable, "-c", "from qsearch.cli import main; main()", "rpc-tracker", "--port", port):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                yield f"127.0.0.1:{port}"
                return
            time.sleep(0.1)
        pytest.fail("the tracker does not listen")


@contextmanager
def our_board(tracker: str, key: str, emulated: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Our server on loopback, registered as `key`; its process."""
    target = arm_target({"kind": "emulated"}) if emulated else load_target("host")
    server = build_server(target, Path(_FOLDER.name) / target.arch)
    with running(*([QEMU] if emulated else []), server, "--tracker", tracker, "--key", key) as process:
        await_board(tracker, key)
        yield process


@contextmanager
def tvm_board(tracker: str, key: str) -> Iterator[subprocess.Popen[bytes]]:
    """TVM's own server on loopback, registered as `key`; its process."""
    port = free_port()
    where = ("--host", "127.0.0.1", "--port", port, "--port-end", port + 1)
    with running(
        sys.executable, "-m", "tvm.exec.rpc_server", *map(str, where), "--tracker", tracker, "--key", key
    ) as p:
        await_board(tracker, key)
        yield p


def await_board(tracker: str, key: str) -> None:
    """Wait until the tracker knows a board of `key`."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if key in registered_keys(tracker, 5):
            return
        time.sleep(0.1)
    pytest.fail(f"no board {key} registered")


def free_port() -> int:
    """A port of loopback that nothing uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
