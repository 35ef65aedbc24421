"""A target describes a device: its processor, its limits, and how to reach it; one TOML file each."""

import os
import tomllib
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qsearch.errors import QsearchError
from qsearch.host import detect_host
from qsearch.rates import Rates
from qsearch.reach import LocalReach, Reach

Arch = Literal["x86_64", "aarch64", "armv7"]
Abi = Literal["musl", "glibc", "android"]
Gpu = Literal["mali", "adreno", "generic"]
Isa = Literal[
    "avx512_popcnt",
    "avx512_vnni",
    "avx_vnni",
    "avx2",
    "arm_i8mm",
    "arm_dotprod",
    "arm_neon",
    "armv7_neon",
    "generic",
    "portable_c",
    "opencl",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KNOWN_FEATURES: dict[str, frozenset[str]] = {
    "x86_64": _words(
        "sse4_1 sse4_2 popcnt avx f16c fma movbe bmi1 bmi2 avx2 avx_vnni avx512f avx512dq avx512cd avx512bw avx512vl "
        "avx512vbmi avx512_vbmi2 avx512_vnni avx512_bf16 avx512_bitalg avx512_vpopcntdq avx512_fp16 gfni amx_int8 "
        "amx_tile"
    ),
    "aarch64": _words("asimd asimdhp asimddp asimdrdm i8mm bf16 sve sve2 atomics fphp"),
    "armv7": _words("neon vfpv3 vfpv4 idiva idivt"),
}
"""The CPU features that a target file may name, in the words of /proc/cpuinfo."""

_AVX2 = _words("avx2 fma f16c bmi1 bmi2 movbe")
_AVX512 = _AVX2 | _words("avx512f avx512dq avx512cd avx512bw avx512vl avx512_vnni")
_NEEDS: dict[Arch, dict[Isa, frozenset[str]]] = {
    "x86_64": {
        "avx512_popcnt": _AVX512 | {"avx512_vpopcntdq"},
        "avx512_vnni": _AVX512,
        "avx_vnni": _AVX2 | {"avx_vnni"},
        "avx2": _AVX2,
        "generic": frozenset(),
        "portable_c": frozenset(),
    },
    "aarch64": {
        "arm_i8mm": _words("asimd asimddp i8mm"),
        "arm_dotprod": _words("asimd asimddp"),
        "arm_neon": _words("asimd"),
        "generic": _words("asimd"),
        "portable_c": _words("asimd"),
    },
    "armv7": {
        "armv7_neon": _words("neon"),
        "generic": _words("neon"),
        "portable_c": _words("neon"),
    },
}
"""What each instruction set needs of a processor, in the words of /proc/cpuinfo; best first."""
_DETECTABLE = ("arch", "cpu", "features", "threads")
_FOLDER = Path(__file__).with_name("targets")


def isas_of(arch: str) -> dict[Isa, frozenset[str]]:
    """The instruction sets of an architecture, best first, and the features that each needs."""
    return _NEEDS.get(cast(Arch, arch), {})


class Limits(BaseModel):
    """What the device allows; None is no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    memory_bytes: int | None = Field(default=None, ge=1 << 20)
    """Working memory of one upscaling, besides the two images; it sets the tile size of an artefact."""
    min_bits: int = Field(default=2, ge=2, le=8)
    max_bits: int = Field(default=8, ge=2, le=8)

    @model_validator(mode="after")
    def _ordered(self) -> "Limits":
        if self.min_bits > self.max_bits:
            raise ValueError(f"min_bits {self.min_bits} is above max_bits {self.max_bits}")
        return self


class Target(BaseModel):
    """A device as its file describes it, everything detected filled in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    description: str = ""
    source: str = ""
    """Where the figures of this file come from."""
    arch: Arch
    cpu: str = Field(min_length=1)
    features: tuple[str, ...]
    threads: int = Field(ge=1, le=256)
    """Threads that an upscaling uses; where cores differ, the number of the fast ones."""
    ram_bytes: int | None = Field(default=None, ge=1 << 20)
    """Memory of the whole device; what an upscaling may use is `limits.memory_bytes`."""
    abi: Abi = "musl"
    """The C library that embedders link, and that the executable loads where it can: see `zig_triple`."""
    wanted_isa: Isa | None = Field(default=None, alias="isa")
    """An instruction set weaker than the best; the key is `isa`."""
    gpu: Gpu | None = None
    """The family of the OpenCL device that runs the network in place of the processor."""
    limits: Limits = Limits()
    reach: Reach = LocalReach()
    rates: Rates = Rates()
    """What a cycle model must know beyond `cpu`, for devices that are not there."""

    @model_validator(mode="after")
    def _features_exist(self) -> "Target":
        for feature in self.features:
            if feature not in KNOWN_FEATURES[self.arch]:
                raise ValueError(f"unknown CPU feature {feature!r} for {self.arch}")
        if self.gpu and self.abi == "musl":
            raise ValueError("a gpu needs abi 'glibc' or 'android': a static executable cannot load libOpenCL")
        if self.gpu and self.wanted_isa:
            raise ValueError("either gpu or isa: a network runs on one of them")
        isas = isas_of(self.arch)
        lacking = sorted(frozenset.intersection(*isas.values()) - set(self.features))
        if lacking:
            raise ValueError(f"every kernel for {self.arch} needs CPU feature {lacking[0]!r}, which is not listed")
        if self.wanted_isa is not None:
            if self.wanted_isa not in isas:
                raise ValueError(f"isa {self.wanted_isa!r} is not one of {self.arch}: those are {', '.join(isas)}")
            missing = sorted(isas[self.wanted_isa] - set(self.features))
            if missing:
                raise ValueError(
                    f"isa {self.wanted_isa!r} needs CPU features that are not listed: {', '.join(missing)}"
                )
        return self

    @property
    def isa(self) -> Isa:
        """The instruction set that kernels use: the wanted one, or the best that the features allow."""
        if self.gpu:
            return "opencl"
        best = next(isa for isa, needs in isas_of(self.arch).items() if needs <= set(self.features))
        return self.wanted_isa or best

    @property
    def zig_triple(self) -> str:
        """The triple of the executable: static with musl, which runs on any Linux kernel, so on Android's too, whose C
        library zig has not; dynamic with glibc.
        """
        return self._triple("musl" if self.abi == "android" and not self.gpu else self.abi)

    @property
    def library_triple(self) -> str:
        """The triple of the static library for embedders."""
        return self._triple(self.abi)

    def _triple(self, abi: Abi) -> str:
        system = {"musl": "linux-musl", "glibc": "linux-gnu", "android": "linux-android"}[abi]
        if self.arch != "armv7":
            return f"{self.arch}-{system}"
        return f"arm-{system}{'eabi' if abi == 'android' else 'eabihf'}"


def load_target(name_or_path: str | Path) -> Target:
    """The target of a shipped name (`host`) or of a TOML file.

    Raises `QsearchError` naming the file and the key for an unknown key, an impossible value or a missing file.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml" and len(path.parts) == 1:
        path = _FOLDER / f"{name_or_path}.toml"
        if not path.is_file():
            names = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.toml"))) or "none"
            raise QsearchError(f"no target is named {str(name_or_path)!r}: known are {names}, or give a .toml file")
    return _read(path)


def list_targets() -> list[Target]:
    """The shipped targets, by name."""
    return [_read(path) for path in sorted(_FOLDER.glob("*.toml"))]


def _read(path: Path) -> Target:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QsearchError(f"cannot read target {path}: {os.strerror(error.errno or 0)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise QsearchError(f"target {path} is not valid TOML: {error}") from error
    try:
        return Target.model_validate(_fill_in(raw, path))
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        if place[:1] == ["reach"]:  # pydantic puts the kind of the table where a user wrote none
            place = ["reach", *(place[2:] or ["kind"])]
        key = ".".join(place)
        what = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise QsearchError(f"target {path}: {key + ': ' if key else ''}{what}") from error


def _fill_in(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """`raw` with every "detect" replaced by what the machine says of itself."""
    wanted = [key for key in _DETECTABLE if raw.get(key) == "detect"]
    if not wanted:
        return raw
    host = detect_host()
    if host.arch not in KNOWN_FEATURES:
        raise QsearchError(f"target {path}: cannot detect {wanted[0]}: this machine is {host.arch}, which is unknown")
    if raw.get("arch", host.arch) not in ("detect", host.arch):
        raise QsearchError(f"target {path}: cannot detect {wanted[0]} of {raw['arch']} on this {host.arch} machine")
    features = tuple(sorted(KNOWN_FEATURES[host.arch] & set(host.features)))
    found = {"arch": host.arch, "cpu": host.cpu, "features": features, "threads": host.threads}
    return {**raw, **{key: found[key] for key in wanted}}
