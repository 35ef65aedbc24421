"""What this machine says of itself."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_ARCH = {"amd64": "x86_64", "arm64": "aarch64", "armv7l": "armv7", "armv8l": "armv7"}


@dataclass(frozen=True)
class Host:
    """Processor of this machine: architecture, name, features in the words of /proc/cpuinfo, available CPUs."""

    arch: str
    cpu: str
    features: frozenset[str]
    threads: int


def detect_host(cpuinfo: Path = Path("/proc/cpuinfo")) -> Host:
    """Read the processor's name and features from `cpuinfo`, and the CPUs that this process may use."""
    machine = platform.machine().lower()
    fields: dict[str, str] = {}
    for line in cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.is_file() else []:
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip().lower(), value.strip())
    return Host(
        arch=_ARCH.get(machine, machine),
        cpu=fields.get("model name") or fields.get("hardware") or platform.processor() or "unknown",
        features=frozenset((fields.get("flags") or fields.get("features") or "").split()),
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )
