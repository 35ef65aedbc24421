"""What runs on a board behind RPC: our own server, and the module that lets TVM's server run commands."""

import shutil
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path

from qsearch.compile import link
from qsearch.files import write_atomic
from qsearch.target import Target

SERVER, PLUGIN = "qsearch-board", "qsearch_board.so"
_SOURCES = Path(str(files("qsearch.measure.board")))


def build_server(target: Target, folder: Path) -> Path:
    """Build the RPC server for `target` into the folder: a static executable that needs nothing else there."""
    triple = _musl(target)
    with tempfile.TemporaryDirectory() as temporary:
        work = _sources(temporary)
        link.link_executable([link.compile_c("server.c", triple, work, work)], SERVER, triple, work)
        write_atomic(folder / SERVER, (work / SERVER).read_bytes())
    (folder / SERVER).chmod(0o755)
    return folder / SERVER


@cache
def build_plugin(target: Target) -> bytes:
    """The module for TVM's own RPC server on `target`."""
    triple = _musl(target)
    with tempfile.TemporaryDirectory() as temporary:
        work = _sources(temporary)
        link.link_module([link.compile_c("plugin.c", triple, work, work)], PLUGIN, triple, work)
        return (work / PLUGIN).read_bytes()


def _musl(target: Target) -> str:
    return target.model_copy(update={"abi": "musl"}).zig_triple


def _sources(folder: str) -> Path:
    for source in _SOURCES.glob("*.[ch]"):
        shutil.copy(source, folder)
    return Path(folder)
