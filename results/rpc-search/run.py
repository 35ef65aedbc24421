"""A search over two RPC boards on loopback, each killed once in the middle: it goes on, and nothing is lost.

    python results/rpc-search/run.py

A TVM tracker; a native board with TVM's own server, on which latency is measured; an aarch64 board with qsearch's own
server under qemu-user, which checks the bytes of every trial. It needs the extra `rpc` and qemu-user, takes about three
minutes and writes table.json and README.md here.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qsearch.files import write_atomic, write_json
from qsearch.host import detect_host
from qsearch.measure.rpc_wire import registered_keys
from qsearch.measure.shells import DeviceLostError
from qsearch.search import load_history

HERE = Path(__file__).parent
MODEL, SIZE, TRIALS, THREADS = "abpn_x3", "160x90", 12, 1
KILL_NATIVE, KILL_EMULATED, EMULATED_BACK = 3, 6, 9
"""Trials after which the boards are killed, and the emulated one started again."""

NATIVE = """name = "native"
description = "TVM's own RPC server"
arch = "detect"
cpu = "detect"
features = "detect"
threads = 1
[reach]
kind = "rpc"
tracker = "{tracker}"
key = "native"
retries = 0
"""
EMULATED = """name = "emulated"
description = "qsearch's RPC server under qemu-user"
arch = "aarch64"
cpu = "any Armv8.2 with dot products"
features = ["asimd", "asimddp"]
threads = 1
[reach]
kind = "rpc"
tracker = "{tracker}"
key = "emulated"
emulator = "qemu-aarch64"
"""
COMPLETE = """Both boards were killed once in the middle of the search and came back. Nothing was lost: the trial that
the native board was timing waited and was timed on its return, and what the emulated board missed was checked on its
return."""
PAGE = """# A search over RPC boards that die

Made by `python results/rpc-search/run.py` on {date}: {cpu}, load average {load:.2f}. One machine, everything on
loopback: TVM's tracker; a native board with TVM's own server, on which latency is measured as a paired ratio to the
8-bit network; an aarch64 board with qsearch's own server (a static file of {server_bytes} bytes) under qemu-user, which
is never timed and checks the golden bytes of every trial; a byte that differs ends the search.
`{model}`, {size}, {threads} thread, {trials} trials,
objectives psnr_y_db and latency_ms.

{story}

| | |
|---|---|
| trials wanted, finished | {trials}, {finished} |
| timed on the native board | {timed} of {trials}, none twice |
| bytes checked on the native board (AVX) and under aarch64 emulation | {checked_native}, {checked_emulated} |
| latency interval within 2 % of the median | {converged} of {timed} |

| time | device | what happened |
|---|---|---|
{rows}

Every trial (latencies of one machine that ran everything at once; they show that the path works,
not how fast the network is):

| point | origin | PSNR (Y) in dB | latency in ms |
|---|---|---|---|
{trial_rows}
"""


def start(*command: str | Path) -> subprocess.Popen[bytes]:
    """A server in a process group of its own."""
    return subprocess.Popen(list(map(str, command)), start_new_session=True, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a server with all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 600.0) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what} took longer than {seconds:g} s")
        time.sleep(0.05)


def registered(tracker: str, key: str) -> bool:
    """Whether the tracker knows a board of `key`."""
    try:
        return key in registered_keys(tracker, 5)
    except DeviceLostError:
        return False


def free_port() -> int:
    """A port of loopback that nothing uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def search(work: Path) -> tuple[list[dict[str, Any]], Any, list[dict[str, Any]]]:
    """The events of the pool, the history, and what was done to the boards."""
    qsearch = (sys.executable, "-c", "from qsearch.cli import main; main()")
    tracker = f"127.0.0.1:{free_port()}"
    for name, text in (("native", NATIVE), ("emulated", EMULATED)):
        (work / f"{name}.toml").write_text(text.format(tracker=tracker))
    done: list[dict[str, Any]] = []
    running: dict[str, subprocess.Popen[bytes]] = {}

    def board(name: str) -> None:
        if name == "native":
            port = free_port()
            options = ("--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1), "--tracker", tracker)
            running[name] = start(sys.executable, "-m", "tvm.exec.rpc_server", *options, "--key", name)
        else:
            running[name] = start(
                *qsearch, "rpc-server", "--target", work / "emulated.toml", "--tracker", tracker, "--key", name
            )
        wait_for(lambda: registered(tracker, name), f"starting the {name} board")

    def act(what: str, name: str) -> None:
        done.append({"time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "device": name, "event": what})
        if what == "killed":
            kill(running.pop(name))
        else:
            board(name)

    log = work / "run" / "devices.jsonl"

    def count(event: str, name: str) -> int:
        return len([e for e in events(log) if (e["event"], e["device"]) == (event, name)])

    running["tracker"] = start(*qsearch, "rpc-tracker", "--port", tracker.rpartition(":")[2])
    try:
        board("native")
        board("emulated")
        devices = ("--device", work / "native.toml", "--device", work / "emulated.toml")
        options = ("--objectives", "psnr_y_db,latency_ms", "--size", SIZE, "--limit", "2", "--threads", str(THREADS))
        command = (*qsearch, "search", MODEL, "--out", work / "run", "--trials", str(TRIALS), *options, *devices)
        running["search"] = start(*command)
        wait_for(lambda: count("verified", "native") > KILL_NATIVE, "timing on the native board")
        act("killed", "native")  # it has checked a trial's bytes and times it now
        wait_for(lambda: count("lost", "native") > 0, "noticing the native board's loss")
        act("started again", "native")
        wait_for(lambda: count("timed", "native") >= KILL_EMULATED, "timing after the native board's loss")
        act("killed", "emulated")
        wait_for(lambda: count("timed", "native") >= EMULATED_BACK, "timing after the emulated board's loss")
        act("started again", "emulated")
        if running.pop("search").wait(600) != 0:
            sys.exit("the search failed")
    finally:
        for process in running.values():
            kill(process)
    return events(log), load_history(work / "run" / "search"), done


def events(log: Path) -> list[dict[str, Any]]:
    """What the pool wrote so far."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def main() -> None:
    """Search, and write the page."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as work:
        found, history, acts = search(Path(work))
        from qsearch.measure.board import build_server
        from qsearch.target import load_target

        server_bytes = build_server(load_target(Path(work) / "emulated.toml"), Path(work)).stat().st_size
    timed = [event for event in found if event["event"] == "timed"]
    checked = {name: {e["trial"] for e in found if e["event"] == "verified" and e["device"] == name}
               for name in ("native", "emulated")}  # fmt: skip
    kept = len({event["trial"] for event in timed}) == len(timed) == len(history.points) == TRIALS
    complete = kept and all(len(trials) == TRIALS for trials in checked.values())
    told = sorted(
        acts + [e for e in found if e["event"] in ("lost", "back", "unchecked")],
        key=lambda e: (e["time"], e["event"] != "killed", e["event"] != "lost"),
    )
    story = COMPLETE if complete else "Something was lost, see the table."
    rows = [f"| {e['time'][11:19]} | {e['device']} | {told_of(e)} |" for e in told]
    trials = [
        f"| {point.number} | {point.origin} | {point.metrics['psnr_y_db']:.3f} | {point.metrics['latency_ms']:.3f} |"
        for point in sorted(history.points, key=lambda point: point.metrics["latency_ms"])
    ]
    figures = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "cpu": detect_host().cpu, "load": load, "model": MODEL,
        "server_bytes": server_bytes, "size": SIZE, "threads": THREADS, "trials": TRIALS,
        "finished": len(history.points), "timed": len(timed), "checked_native": len(checked["native"]),
        "checked_emulated": len(checked["emulated"]), "converged": sum(e["converged"] for e in timed),
    }  # fmt: skip
    write_json(HERE / "table.json", {**figures, "complete": complete, "boards": acts, "events": found})
    write_atomic(
        HERE / "README.md", PAGE.format(**figures, story=story, rows="\n".join(rows), trial_rows="\n".join(trials))
    )
    print(json.dumps({"complete": complete, **figures}))
    sys.exit(0 if complete else 1)


def told_of(event: dict[str, Any]) -> str:
    """One event in words."""
    words = {"lost": f"lost with trial {event.get('trial')}: {event.get('reason')}", "back": "the search has it back"}
    return words.get(event["event"], event["event"])


if __name__ == "__main__":
    main()
