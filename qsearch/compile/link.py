"""Compiling and linking C with zig, the cross compiler that pip installs."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from qsearch.errors import QsearchError

# Nothing is thrown, so that no unwind tables are needed; sections let the linker drop what nobody calls.
_COMPILE = (
    *("-std=c17", "-D_GNU_SOURCE", "-Os", "-g0", "-fPIC", "-fno-sanitize=all", "-Wall", "-Wextra", "-Werror"),
    *("-ffunction-sections", "-fdata-sections", "-fno-stack-protector"),
    *("-fno-unwind-tables", "-fno-asynchronous-unwind-tables"),
)
# LLVM writes unwind tables into kernels, zig into its C library.
_NO_UNWIND_TABLES = "SECTIONS { /DISCARD/ : { *(.eh_frame) *(.ARM.exidx*) *(.ARM.extab*) *(.comment) } }"
_ZIG_LIBC = Path("lib", "libc", "include")


def compile_c(source: str, triple: str, folder: Path, *include: Path, options: Sequence[str] = ()) -> str:
    """Compile `folder/source` for `triple`, with headers from `include` too; returns the object's name in `folder`.

    `options` of the compiler come last and win.
    """
    target = f"{Path(source).stem}.o"
    folders = ["-I.", *(f"-I{place}" for place in include)]
    words = [*_COMPILE, *_android_headers(triple), *folders, *options, "-c", source, "-o", target]
    run_zig(["cc", "-target", triple, *words], folder)
    return target


def archive(objects: Sequence[str], library: str, folder: Path) -> None:
    """Collect object files of `folder` in the static library `folder/library`, without dates and owners."""
    run_zig(["ar", "rcsD", library, *objects], folder)


def link_executable(objects: Sequence[str], executable: str, triple: str, folder: Path) -> None:
    """Link object files of `folder` to the stripped `folder/executable`: static with musl, which makes it small, and
    dynamic with glibc, which zig has no static library of. For Android see `android.link_executable`.
    """
    static = "musl" in triple
    words = ["-Oz", "-s", "-Wl,--gc-sections", *objects, "-lpthread", "-lm", "-o", executable]
    if static:
        (folder / "sections.ld").write_text(f"{_NO_UNWIND_TABLES} INSERT AFTER .text;\n")
        words = ["-static", "-T", "sections.ld", *words]
    run_zig(["cc", "-target", triple, *words], folder)


def link_module(objects: Sequence[str], library: str, triple: str, folder: Path) -> None:
    """Link object files of `folder` to the stripped shared `folder/library`, which takes the C library, whichever that
    is, of the process that loads it.
    """
    run_zig(["cc", "-target", triple, "-shared", "-nostdlib", "-s", *objects, "-o", library], folder)


def _android_headers(triple: str) -> list[str]:
    """musl's headers for Android, whose own zig lacks.

    The runtime leaves room for the locks of any C library (`QS_ROOM`), and uses everything else through functions that
    both have.
    """
    if "android" not in triple:
        return []
    arch = triple.partition("-")[0]
    base = Path(_ziglang_folder()) / _ZIG_LIBC
    folders = [f"{arch}-linux-musl", "generic-musl", f"{arch}-linux-any", "any-linux-any"]
    return [word for folder in folders for word in ("-isystem", str(base / folder))]


def _ziglang_folder() -> str:
    found = find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        raise QsearchError("ziglang is not installed: it compiles artefacts")
    return found.submodule_search_locations[0]


def cache_folder() -> Path:
    """The user's cache of zig: the first link for a triple builds its C library there, which takes a minute."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qsearch" / "zig"


def run_zig(arguments: Sequence[str], folder: Path) -> None:
    """Run zig in `folder`; raises `QsearchError` with its first line that names an error."""
    cache = str(cache_folder())
    environment = {**os.environ, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
    command = [sys.executable, "-m", "ziglang", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-300:])
        raise QsearchError(f"zig {arguments[0]} failed: {reason}")
