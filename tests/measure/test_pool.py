"""Several devices for one search: what a loss costs, and that nothing is lost with it."""

import json
import os
import signal
import threading
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from torch.fx import GraphModule

from qsearch.commands.search import search_run
from qsearch.errors import QsearchError
from qsearch.measure import DeviceLostError, pool
from qsearch.measure.pool import Pool
from qsearch.run import DEVICES, Run, RunConfig
from qsearch.search import load_history
from qsearch.target import Target, load_target
from tests.measure.boards import arm_target, host_target, our_board
from tests.random_programs import Layer, build_program
from tests.small_networks import __file__ as networks

SIZE = (24, 32)


@pytest.fixture(autouse=True)
def _short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SECONDS", 0.1)


@cache
def one_layer() -> GraphModule:
    """The smallest network that an artefact can hold, for every one is compiled several times."""
    return build_program([Layer(3, shuffle=2)], seed=1)


def rpc_reach(tracker: str, key: str, **more: object) -> dict[str, object]:
    return {"kind": "rpc", "tracker": tracker, "key": key, "timeout_s": 20.0, **more}


def events(log: Path, kind: str) -> list[dict[str, Any]]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_what_a_lost_checker_missed_is_checked_when_it_is_back(tracker: str, tmp_path: Path) -> None:
    arm = arm_target(rpc_reach(tracker, "checker", emulator="qemu-aarch64", retries=0))
    log, said = tmp_path / "devices.jsonl", list[str]()
    with Pool([load_target("host"), arm], SIZE, 1, log, said.append) as devices:
        assert (devices.timed_on, devices.checked_on) == ("host", "arm")
        with our_board(tracker, "checker", emulated=True) as server:
            assert devices.measure(one_layer(), "one", one_layer)["latency_ms"] > 0
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
            assert devices.measure(one_layer(), "two", one_layer)["latency_ms"] > 0
        assert [event["trial"] for event in events(log, "verified") if event["device"] == "arm"] == ["one"]
        assert len(said) == 1
        assert "going on without it" in said[0]
        board = our_board(tracker, "checker", emulated=True)
        board.__enter__()
    board.__exit__(None, None, None)
    assert [event["trial"] for event in events(log, "verified") if event["device"] == "arm"] == ["one", "two"]
    assert [event["trial"] for event in events(log, "timed")] == ["one", "two"]
    assert len(events(log, "reference")) == 1
    assert said[1:] == ["device arm is back"]


def test_a_search_outlives_a_board(tracker: str, tmp_path: Path) -> None:
    """Two boards that are timed and an emulated one; one of the two is killed in the middle."""
    first = write_target(tmp_path, host_target(rpc_reach(tracker, "first", retries=0), "first"))
    second = write_target(tmp_path, host_target(rpc_reach(tracker, "second", retries=0), "second"))
    arm = write_target(tmp_path, arm_target(rpc_reach(tracker, "arm", emulator="qemu-aarch64")))
    objectives = "psnr_y_db,latency_ms"
    model = f"{networks}:SmallAnchor"
    config = RunConfig(model, "samples", "samples", objectives, SIZE, threads=1, image_limit=1, calibration_limit=1,
                       devices=(first, second, arm))  # fmt: skip
    run = Run.create(tmp_path / "run", config)
    with our_board(tracker, "first") as victim, our_board(tracker, "second"), our_board(tracker, "arm", emulated=True):
        killer = threading.Thread(target=kill_after, args=(run.folder / DEVICES, 1, victim.pid), daemon=True)
        killer.start()
        search_run(run, "3", Console(stderr=True, quiet=True))
        killer.join()
    points, log = load_history(run.folder / "search").points, run.folder / DEVICES
    assert len(points) == 3
    assert all(point.metrics["latency_ms"] > 0 for point in points)
    timed = events(log, "timed")
    assert len({event["trial"] for event in timed}) == len(timed) == 3, "a trial was lost or timed twice"
    assert {event["device"] for event in timed} == {"first", "second"}
    assert all({"rounds", "load_average", "temperature_c", "frequency_mhz"} <= event.keys() for event in timed)
    assert {e["trial"] for e in events(log, "verified") if e["device"] == "arm"} == {e["trial"] for e in timed}
    assert [event["device"] for event in events(log, "lost")] == ["first"]
    assert "arm" in load_history(run.folder / "search").conditions["bytes checked on"]


def test_no_device_is_left(tracker: str, tmp_path: Path) -> None:
    target = host_target(rpc_reach(tracker, "nobody", retries=0), "board")
    devices = Pool([target], SIZE, 1, tmp_path / "log", lambda line: None, patience_s=0.0)
    with pytest.raises(DeviceLostError, match="no device is left to time on: board; the same command continues"):
        devices.measure(one_layer(), "one", one_layer)
    devices.close()


def test_devices_that_share_no_latency(tmp_path: Path) -> None:
    def opened(*targets: Target) -> Pool:
        return Pool(targets, SIZE, 1, tmp_path / "log", print)

    host = load_target("host")
    other = host_target({"kind": "rpc", "key": "any"}).model_copy(update={"cpu": "other"})
    with pytest.raises(QsearchError, match=r"different processors cannot share one latency: host is .*, host is other"):
        opened(host, other)
    with pytest.raises(QsearchError, match="needs a device that may be timed, and all of these are emulated"):
        opened(arm_target({"kind": "emulated"}))


def write_target(folder: Path, target: Target) -> str:
    """A target file; its path."""
    described = target.model_dump(include={"name", "arch", "cpu", "features", "threads"}, mode="json")
    reach = target.reach.model_dump(by_alias=True, exclude_none=True)
    lines = [f"{key} = {json.dumps(item)}" for key, item in described.items()]
    lines += ["[reach]", *(f"{key} = {json.dumps(item)}" for key, item in reach.items())]
    path = folder / f"{target.name}.toml"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def kill_after(log: Path, count: int, pid: int) -> None:
    """Kill the process when the log holds `count` timed trials."""
    deadline = time.monotonic() + 120
    while len(events(log, "timed")) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
