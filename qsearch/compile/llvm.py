"""The compiler target of kernels: triple, features and float ABI of every architecture, in one place."""

from collections.abc import Sequence
from typing import Any

# With all four parts: LLVM reads "linux-gnu" after an architecture as vendor and system, and then knows no ABI.
_BASE: dict[str, dict[str, Any]] = {
    "x86_64": {"mtriple": "x86_64-unknown-linux-gnu"},
    "aarch64": {"mtriple": "aarch64-unknown-linux-gnu"},
    "armv7": {"mtriple": "armv7-unknown-linux-gnueabihf", "mfloat-abi": "hard"},
}
_ALWAYS = {"armv7": ("neon",)}
_ZIG = {"armv7": "arm-linux-musleabihf"}


def llvm_target(arch: str, features: Sequence[str]) -> dict[str, Any]:
    """The TVM target, as a dict, of kernels for `arch` with `features` in LLVM's words and no particular processor.

    The objects are ELF without a C library's traits: they link with musl, glibc and Android's libc alike.
    """
    wanted = [f"+{feature}" for feature in (*_ALWAYS.get(arch, ()), *features)]
    return {"kind": "llvm", **_BASE.get(arch, {}), **({"mattr": wanted} if wanted else {})}


def c_target(arch: str) -> dict[str, Any]:
    """The target of kernels in plain C: zig's triple, for the oldest processor of `arch`."""
    return {"kind": "c", "mtriple": _ZIG.get(arch, f"{arch}-linux-musl")}
