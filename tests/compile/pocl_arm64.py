"""PoCL, OpenCL on a processor, for arm64 in a folder of its own: checks OpenCL artefacts under qemu-aarch64.

Debian's packages are resolved against an empty system and only unpacked; nothing is installed, and root is not needed.
Executables for Android run there, too: Debian's loader and C library stand for Android's.
`python -m tests.compile.pocl_arm64` prints the folder.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from qsearch.compile.link import run_zig
from qsearch.errors import QsearchError

PACKAGES = ("pocl-opencl-icd", "ocl-icd-libopencl1", "libc6")
# PoCL links every kernel with the program `ld` of its PATH, which runs natively: zig's, without the C library, whose
# symbols the process has.
_LINKER = """#!{python}
import os, sys
words = [word for word in sys.argv[1:] if not word.startswith(("-l", "-L"))]
os.execv({python!r}, [{python!r}, "-m", "ziglang", "ld.lld", *words])
"""
# What an executable for Android takes from Android's C library and not by the name that Debian's has.
_ANDROID = """
#include <errno.h>
#include <stdlib.h>
int *__errno(void) { return __errno_location(); }
void __libc_init(long *arguments, void *at_exit, int (*run)(int, char **, char **), void *arrays) {
  exit(run((int)arguments[0], (char **)(arguments + 1), (char **)(arguments + arguments[0] + 2)));
}
"""


def folder() -> Path:
    """Where the packages are unpacked."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qsearch" / "pocl-arm64"


def build() -> Path:
    """The folder, filled if it is not there: about 150 MB from the Debian mirror that apt uses.

    Raises `QsearchError` where apt cannot fetch the packages.
    """
    target = folder()
    if target.is_dir():
        return target
    work = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    try:
        _apt(work, "update", "-qq")
        _apt(work, "install", "-qq", "--yes", "--download-only", "--no-install-recommends", *PACKAGES)
        root = work / "root"
        for package in sorted((work / "cache" / "archives").glob("*.deb")):
            subprocess.run(["dpkg", "-x", package, root], check=True)
        _name_vendor(root, target)
        _add_linker(root)
        _add_android(root)
        os.replace(root, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def environment() -> dict[str, str]:
    """Variables under which arm64 executables run here with PoCL; `build` comes first.

    qemu-aarch64 finds the loader and the libraries by them, so that everything that runs artefacts works unchanged.
    """
    root = folder()
    return {
        "QEMU_LD_PREFIX": str(root),
        "OCL_ICD_VENDORS": str(root / "etc" / "OpenCL" / "vendors"),
        "POCL_CACHE_DIR": str(root / "pocl-cache"),
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
    }


def _apt(work: Path, *words: str) -> None:
    """apt-get on an arm64 system that has nothing, with all of its state below `work`."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (work / name).mkdir(parents=True, exist_ok=True)
    (work / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Dir::State": work / "state",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Debug::NoLocking": "1",
        "DPkg::Pre-Install-Pkgs": "",
    }
    chosen = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    done = subprocess.run(["apt-get", *chosen, *words], capture_output=True, text=True)
    if done.returncode:
        raise QsearchError(f"apt-get {words[0]} failed: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")


def _name_vendor(root: Path, target: Path) -> None:
    """The ICD loader opens the driver by the path in this file."""
    library = next(path.relative_to(root) for path in root.rglob("libpocl.so*") if path.is_file())
    (root / "etc" / "OpenCL" / "vendors").mkdir(parents=True, exist_ok=True)
    for file in (root / "etc" / "OpenCL" / "vendors").iterdir():
        file.unlink()
    (root / "etc" / "OpenCL" / "vendors" / "pocl.icd").write_text(f"{target / library}\n")


def _add_linker(root: Path) -> None:
    linker = root / "bin" / "ld"
    linker.parent.mkdir(exist_ok=True)
    linker.write_text(_LINKER.format(python=sys.executable))
    linker.chmod(0o755)


def _add_android(root: Path) -> None:
    loader = root / "system" / "bin" / "linker64"
    loader.parent.mkdir(parents=True, exist_ok=True)
    loader.symlink_to("../../lib/ld-linux-aarch64.so.1")
    for library, source in (("libc.so", _ANDROID), ("libdl.so", "")):
        (root / "android.c").write_text(source)
        words = ["-target", "aarch64-linux-gnu", "-shared", f"-Wl,-soname,{library}", "android.c"]
        run_zig(["cc", *words, "-o", f"lib/aarch64-linux-gnu/{library}"], root)


if __name__ == "__main__":
    try:
        print(build())
    except QsearchError as error:
        sys.exit(str(error))
