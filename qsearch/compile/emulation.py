"""Executables of other architectures: what they were built for, and running them under qemu's user emulation.

Emulation gives the bytes of the real processor and says nothing about its speed.
"""

import os
import re
import shutil
import struct
from pathlib import Path

from qsearch.errors import QsearchError
from qsearch.host import detect_host

_MACHINES = {(62, 2): "x86_64", (183, 2): "aarch64", (40, 1): "armv7", (3, 1): "i386", (243, 2): "riscv64"}
_PROGRAMS = {"x86_64": "qemu-x86_64", "aarch64": "qemu-aarch64", "armv7": "qemu-arm"}
_C_LIBRARIES = {
    "x86_64": "/usr/x86_64-linux-gnu",
    "aarch64": "/usr/aarch64-linux-gnu",
    "armv7": "/usr/arm-linux-gnueabihf",
}
"""Where distributions install the C library of another architecture."""
_LOADER = re.compile(rb"/[\w./-]*/(?:ld-linux[\w.-]*|linker(?:64)?)\0")
PACKAGE = "qemu-user"


class CannotRunError(QsearchError):
    """The executable is for another processor, or another C library, than this machine has."""


def executable_arch(executable: Path) -> str:
    """The architecture that an ELF executable is for, in the words of target files; `QsearchError` for another file."""
    try:
        with open(executable, "rb") as file:
            start = file.read(20)
    except OSError as error:
        raise QsearchError(f"cannot run {executable}: {error.strerror or error}") from error
    if len(start) < 20 or start[:4] != b"\x7fELF":
        raise QsearchError(f"cannot run {executable}: it is not an ELF executable")
    (machine,) = struct.unpack_from("<H" if start[5] == 1 else ">H", start, 18)
    return _MACHINES.get((machine, start[4]), f"ELF machine {machine}")


def emulator(arch: str) -> Path | None:
    """The qemu program that runs executables of `arch` on this machine, where it is installed."""
    found = shutil.which(_PROGRAMS[arch]) if arch in _PROGRAMS else None
    return Path(found) if found else None


def command(executable: Path, cpu: str = "max") -> list[str]:
    """The words that run `executable` here: itself, or under emulation of `cpu` where it is for another architecture.

    Raises `CannotRunError`, naming both architectures and the package to install, where no emulator is found, and
    where the executable loads a C library that is not here.
    """
    arch, here = executable_arch(executable), detect_host().arch
    loader = _loader(executable)
    if arch == here:
        if loader and not Path(loader).exists():
            raise CannotRunError(f"{executable} needs the C library of {loader}, which this machine has not")
        return [str(executable)]
    found = emulator(arch)
    if found is None:
        way_out = f": install {PACKAGE} to run it under emulation" if arch in _PROGRAMS else ""
        raise CannotRunError(f"{executable} is for {arch} and this machine is {here}{way_out}")
    libraries = Path(os.environ.get("QEMU_LD_PREFIX") or _C_LIBRARIES[arch])  # qemu's own variable
    if loader and not (libraries / loader.lstrip("/")).exists():
        raise CannotRunError(
            f"{executable} is for {arch} and needs its C library below {libraries}, which is not there"
        )
    return [str(found), "-cpu", cpu, *(["-L", str(libraries)] if loader else []), str(executable)]


def _loader(executable: Path) -> str:
    """The program that loads shared libraries for `executable`; empty for a static one."""
    with open(executable, "rb") as file:
        found = _LOADER.search(file.read(4096))
    return found[0].rstrip(b"\0").decode() if found else ""


def require_native(executable: Path) -> None:
    """Raises `CannotRunError`, naming both architectures, unless this machine itself runs `executable`."""
    arch, here = executable_arch(executable), detect_host().arch
    if arch != here:
        raise CannotRunError(f"{executable} is for {arch} and this machine is {here}: run it on the device")


def runner(executable: Path) -> str:
    """What runs `executable` here, for reports: "native" or the emulator's name; raises as `command` does."""
    first = command(executable)[0]
    return "native" if first == str(executable) else Path(first).name
