"""Compiling and linking C with zig, the cross compiler that pip installs."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qsearch.errors import QsearchError

_COMPILE = ("-std=c17", "-D_GNU_SOURCE", "-O2", "-g0", "-fPIC", "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror")


def compile_c(source: str, triple: str, folder: Path, include: Path) -> str:
    """Compile `folder/source` for `triple`, with headers from `include` too; returns the object's name in `folder`."""
    target = f"{Path(source).stem}.o"
    _zig(["cc", "-target", triple, *_COMPILE, "-I.", f"-I{include}", "-c", source, "-o", target], folder)
    return target


def archive(objects: Sequence[str], library: str, folder: Path) -> None:
    """Collect object files of `folder` in the static library `folder/library`, without dates and owners."""
    _zig(["ar", "rcsD", library, *objects], folder)


def link_executable(objects: Sequence[str], executable: str, triple: str, folder: Path) -> None:
    """Link object files of `folder` to the static, stripped `folder/executable`."""
    _zig(["cc", "-target", triple, "-O2", "-static", "-s", *objects, "-lpthread", "-lm", "-o", executable], folder)


def cache_folder() -> Path:
    """The user's cache of zig: the first link for a triple builds its C library there, which takes a minute."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qsearch" / "zig"


def _zig(arguments: Sequence[str], folder: Path) -> None:
    cache = str(cache_folder())
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-300:])
        raise QsearchError(f"zig {arguments[0]} failed: {reason}")
