"""Executables for Android that load its own libraries, such as libOpenCL, linked without Android's toolchain.

Its C library (bionic) is not needed for that: a shared library with the names of the functions in use stands for it.
"""

from collections.abc import Sequence
from pathlib import Path

from qsearch.compile.elf import symbols
from qsearch.compile.glue import RUNTIME
from qsearch.compile.link import compile_c, run_zig
from qsearch.errors import QsearchError

_LOADER = "/system/bin/linker64"
_LIBRARIES = {"libdl.so": ("dlopen", "dlsym")}
_C_LIBRARY = "libc.so"
# Position-independent and of pages of 16 KB, as Android 5 and 15 demand; both hash tables, as Android 5 knows only one.
_OPTIONS = ("-pie", "--gc-sections", "--strip-all", "--hash-style=both", "-z", "max-page-size=16384", "-z", "now")


def link_executable(objects: Sequence[str], executable: str, triple: str, folder: Path) -> None:
    """Link `objects` of `folder`, compiled for `triple`, to the stripped, dynamic `folder/executable`.

    Raises `QsearchError` for another architecture than aarch64.
    """
    if not triple.startswith("aarch64-"):
        raise QsearchError(f"an executable for Android that loads libOpenCL must be for aarch64, not {triple}")
    (folder / "start.c").write_text('#include "android.c"\n')
    start = compile_c("start.c", triple, folder, Path(str(RUNTIME)))
    known = [symbols(path.read_bytes()) for path in folder.glob("*.o")]
    wanted = set().union(*(undefined for _, undefined in known)) - set().union(*(defined for defined, _ in known))
    named = {name for names in _LIBRARIES.values() for name in names}
    libraries = {**_LIBRARIES, _C_LIBRARY: sorted(wanted - named)}
    for library, names in libraries.items():
        source = "".join(f".global {name}\n.type {name}, %function\n{name}:\n" for name in names)
        (folder / f"{library}.s").write_text(f".text\n{source}")
        run_zig(["cc", "-target", triple, "-c", f"{library}.s", "-o", f"{library}.stub"], folder)
        run_zig(["ld.lld", "-shared", "-soname", library, f"{library}.stub", "-o", library], folder)
    words = [*_OPTIONS, "--dynamic-linker", _LOADER, start, *objects, *libraries, "-o", executable]
    run_zig(["ld.lld", *words], folder)
