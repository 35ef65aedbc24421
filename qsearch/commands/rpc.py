"""`qsearch rpc-tracker` and `qsearch rpc-server`: TVM's tracker, and our server for boards, on loopback by default."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from qsearch.compile.emulation import command
from qsearch.compile.link import cache_folder
from qsearch.errors import QsearchError
from qsearch.measure.board import build_server
from qsearch.target import load_target

LOOPBACK = "127.0.0.1"


def run_tracker(host: str, port: int, console: Console) -> NoReturn:
    """Become TVM's RPC tracker on exactly `port`; raises `QsearchError` where its packages are missing."""
    missing = [name for name in ("tornado", "cloudpickle", "psutil") if find_spec(name) is None]
    if missing:
        raise QsearchError(f"the RPC tracker needs {', '.join(missing)}: pip install 'qsearch[rpc]'")
    _warn(host, console)
    module = ["-m", "tvm.exec.rpc_tracker", "--host", host, "--port", str(port), "--port-end", str(port + 1)]
    os.execv(sys.executable, [sys.executable, *module])


def run_server(target: str, tracker: str, key: str, host: str, port: int, console: Console) -> NoReturn:
    """Become the RPC server of a target on this machine, under emulation where the target is another architecture."""
    _warn(host, console)
    loaded = load_target(target)
    server = build_server(loaded, cache_folder().parent / "board" / loaded.zig_triple)
    words = [*command(server), "--tracker", tracker, "--key", key, "--host", host, "--port", str(port)]
    os.execv(words[0], words)


def write_server(target: str, out: Path) -> dict[str, Any]:
    """Build the RPC server of a target into a folder, to be copied to the board."""
    server = build_server(load_target(target), out)
    return {"server": str(server), "bytes": server.stat().st_size}


def _warn(host: str, console: Console) -> None:
    if host != LOOPBACK:
        console.print(f"RPC has no authentication: whoever reaches {host} can run commands here")
