"""Devices on which an artefact is measured. An implementation runs the artefact's own `--bench` where the device is."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qsearch.compile.manifest import read_manifest
from qsearch.errors import QsearchError
from qsearch.host import detect_host
from qsearch.measure.timers import Conditions, now_conditions
from qsearch.target import Target


@dataclass(frozen=True)
class BenchResult:
    """Latency of a whole network on a device, from uint8 image to uint8 image."""

    latency_ms: float
    """Median of the rounds."""
    p10_ms: float
    p90_ms: float
    min_ms: float
    peak_rss_bytes: int
    conditions: Conditions


class Device(Protocol):
    """A live device of a target."""

    @property
    def target(self) -> Target:
        """What the device is."""
        ...

    def bench(
        self, artefact: Path | str, rounds: int = 20, size: tuple[int, int] = (180, 320), threads: int | None = None
    ) -> BenchResult:
        """Time `artefact` on an image of `size` = (height, width); `threads` None takes the target's.

        Raises `QsearchError` where the artefact does not run on the device.
        """
        ...


@dataclass(frozen=True)
class LocalDevice:
    """The machine that runs qsearch."""

    target: Target

    def __post_init__(self) -> None:
        host = detect_host()
        missing = sorted(set(self.target.features) - host.features)
        if host.arch != self.target.arch or missing:
            lacks = f"lacks {', '.join(missing)}" if missing else f"is {host.arch}"
            raise QsearchError(f"target {self.target.name} cannot be reached as local: this machine {lacks}")

    def bench(
        self, artefact: Path | str, rounds: int = 20, size: tuple[int, int] = (180, 320), threads: int | None = None
    ) -> BenchResult:
        """See `Device.bench`."""
        threads = threads or self.target.threads
        conditions = now_conditions(self.target.name, threads, size, rounds)
        executable = Path(artefact).resolve() / read_manifest(artefact)["executable"]
        command = [executable, "--bench", str(rounds), "--size", f"{size[1]}x{size[0]}", "--threads", str(threads)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise QsearchError(f"cannot run {executable}: {error.strerror or error}") from error
        if done.returncode != 0:
            raise QsearchError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{executable} failed")
        found = json.loads(done.stdout.splitlines()[-1])
        numbers = {key: found[key] for key in ("latency_ms", "p10_ms", "p90_ms", "min_ms", "peak_rss_bytes")}
        return BenchResult(**numbers, conditions=conditions)


def open_device(target: Target) -> Device:
    """The device of `target`, by its `reach.kind`."""
    return {"local": LocalDevice}[target.reach.kind](target)
