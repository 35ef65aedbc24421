"""Several devices for one search: some give latencies, all check bytes, and a lost one is passed over until it is back.

Every artefact is checked byte for byte on each emulated device and on the device that times it. What a lost device
missed waits for it; what it was timing goes to another of its kind.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.fx import GraphModule

from qsearch.compile.artefact import build_artefact
from qsearch.errors import QsearchError
from qsearch.files import append_line, drop_torn_tail
from qsearch.measure.devices import Device, open_device
from qsearch.measure.modelled import choice_for
from qsearch.measure.shells import DeviceLostError
from qsearch.target import Target

NAME = "network"
ROUNDS, SECONDS = 64, 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0


@dataclass(frozen=True)
class _Job:
    """One trial's artefact for one build of target."""

    trial: str
    artefact: Path


@dataclass
class _Member:
    """A device, and when it is asked again after a loss."""

    device: Device
    waits: list[_Job] = field(default_factory=list)
    """What it has not checked, the oldest first."""
    pause_s: float = 0.0
    asked_again_at: float = 0.0
    timed_at: float = 0.0

    @property
    def ready(self) -> bool:
        return time.monotonic() >= self.asked_again_at


class Pool:
    """The devices of `targets`. Latencies are of one processor: a target that may be timed must have the same cpu,
    instruction set and threads as every other such.

    `size` is (height, width) of the timed image; `threads` None takes the targets'. `log` gets one JSON line per event,
    `report` one line for a person. `patience_s` is how long a trial waits when no device that may be timed answers.
    Raises `QsearchError` for targets that differ, or `timed` without any that may be timed.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        size: tuple[int, int],
        threads: int | None,
        log: Path,
        report: Callable[[str], None],
        timed: bool = True,
        patience_s: float = 120.0,
    ) -> None:
        self._size, self._threads = size, threads
        self._log, self._report, self._patience_s = log, report, patience_s
        self._members = [_Member(open_device(target)) for target in targets]
        self._timers = [m for m in self._members if not m.device.emulated] if timed else []
        self._checkers = [m for m in self._members if m not in self._timers]
        self._folder = tempfile.TemporaryDirectory(prefix="qsearch-pool-")
        self._references: dict[tuple[Any, ...], Path] = {}
        drop_torn_tail(log)
        self._reference_ms = _read_reference(log)
        kinds = {(t.arch, t.isa, t.cpu, t.threads) for t in (m.device.target for m in self._timers)}
        if len(kinds) > 1:
            raise QsearchError(
                "devices of different processors cannot share one latency: "
                + ", ".join(f"{m.device.target.name} is {m.device.target.cpu}" for m in self._timers)
            )
        if timed and not kinds:
            raise QsearchError(
                "latency_ms needs a device that may be timed, and all of these are emulated: "
                "search for latency_modelled_ms instead"
            )

    @property
    def timed_on(self) -> str:
        """Names of the targets that latencies are of; empty where the pool only checks bytes."""
        return ", ".join(member.device.target.name for member in self._timers)

    @property
    def checked_on(self) -> str:
        """Names of the other targets."""
        return ", ".join(member.device.target.name for member in self._checkers)

    @property
    def cpu(self) -> str:
        """The processor that latencies are of; empty where the pool only checks bytes."""
        return self._timers[0].device.target.cpu if self._timers else ""

    def measure(self, program: GraphModule, trial: str, reference: Callable[[], GraphModule]) -> dict[str, float]:
        """Check the bytes of `program`, called `trial` in the log, and give `latency_ms` where the pool times.

        The latency is the paired ratio to `reference`, the same at every call, times the reference's first median: it
        does not matter which device measures. Raises `QsearchError` where a byte differs, `DeviceLostError` where every
        device that may be timed is lost for `patience_s`.
        """
        built: dict[tuple[Any, ...], _Job] = {}
        try:
            for member in self._checkers:
                member.waits.append(self._job(built, program, trial, member.device.target))
                self._catch_up(member)
            if not self._timers:
                return {}
            job = self._job(built, program, trial, self._timers[0].device.target)
            return {"latency_ms": self._on_some(job, lambda member: self._time(member, job, reference))}
        finally:
            self._sweep()

    def close(self, catch_up: bool = True) -> None:
        """Try once more what lost devices have missed, say what stays unchecked, and let the devices go."""
        for member in self._members:
            if catch_up:
                member.asked_again_at = 0.0
                self._catch_up(member)
            if member.waits:
                name = member.device.target.name
                self._report(f"{len(member.waits)} trials were not checked on {name}, which is lost")
                for job in member.waits:
                    self._note(member, "unchecked", trial=job.trial)
            member.device.close()
        self._folder.cleanup()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close(catch_up=error is None)

    def _job(self, built: dict[tuple[Any, ...], _Job], program: GraphModule, trial: str, target: Target) -> _Job:
        key = _build_key(target)
        if key not in built:
            folder = Path(tempfile.mkdtemp(dir=self._folder.name, prefix="trial-")) / "artefact"
            built[key] = _Job(trial, build_artefact(program, folder, target, name=NAME, choose=choice_for(target)))
        return built[key]

    def _catch_up(self, member: _Member) -> None:
        while member.waits and member.ready:
            job = member.waits.pop(0)
            try:
                self._check(member, job)
                member.device.forget(job.artefact)
            except DeviceLostError as error:
                member.waits.insert(0, job)
                self._lose(member, job, error)

    def _check(self, member: _Member, job: _Job) -> None:
        found = member.device.verify(job.artefact, tiles=False)  # tiles are the runtime's, the same in every trial
        if not found.ok:
            raise QsearchError(f"trial {job.trial} is wrong: {'; '.join(found.problems)}")
        self._answered(member)
        self._note(member, "verified", trial=job.trial, runner=found.runner)

    def _time(self, member: _Member, job: _Job, reference_program: Callable[[], GraphModule]) -> float:
        self._check(member, job)
        device, reference = member.device, self._reference_for(member.device.target, reference_program)
        options: dict[str, Any] = {"rounds": ROUNDS, "size": self._size, "threads": self._threads, "seconds": SECONDS}
        if self._reference_ms is None:
            self._reference_ms = device.bench(reference, **options).latency_ms
            self._note(member, "reference", latency_ms=self._reference_ms)
        found = device.bench(job.artefact, reference=reference, **options)
        device.forget(job.artefact)
        ratio = found.ratio.median if found.ratio else 1.0
        latency_ms = round(ratio * self._reference_ms, 4)
        kept = ("rounds", "load_average", "temperature_c", "frequency_mhz")
        conditions = {key: getattr(found.conditions, key) for key in kept}
        self._note(
            member,
            "timed",
            trial=job.trial,
            latency_ms=latency_ms,
            ratio=ratio,
            converged=found.converged,
            **conditions,
        )
        return latency_ms

    def _on_some(self, job: _Job, ask: Callable[[_Member], float]) -> float:
        """What `ask` gives on the first device that answers: by turns, those that were lost at the end."""
        began = time.monotonic()
        while True:
            for member in sorted((m for m in self._timers if m.ready), key=lambda m: (m.pause_s, m.timed_at)):
                try:
                    member.timed_at = time.monotonic()
                    return ask(member)
                except DeviceLostError as error:
                    self._lose(member, job, error)
            if time.monotonic() - began > self._patience_s:
                names = ", ".join(member.device.target.name for member in self._timers)
                raise DeviceLostError(f"no device is left to time on: {names}; the same command continues the search")
            time.sleep(0.2)

    def _lose(self, member: _Member, job: _Job, error: DeviceLostError) -> None:
        if not member.pause_s:
            self._report(f"{error}; going on without it for now")
            self._note(member, "lost", trial=job.trial, reason=str(error))
        member.pause_s = min(max(2 * member.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        member.asked_again_at = time.monotonic() + member.pause_s

    def _answered(self, member: _Member) -> None:
        if member.pause_s:
            self._report(f"device {member.device.target.name} is back")
            self._note(member, "back")
        member.pause_s = 0.0

    def _sweep(self) -> None:
        """Remove the artefacts that no device waits for."""
        kept = {job.artefact.parent for member in self._members for job in member.waits}
        for folder in Path(self._folder.name).glob("trial-*"):
            if folder not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _reference_for(self, target: Target, program: Callable[[], GraphModule]) -> Path:
        key = _build_key(target)
        if key not in self._references:
            folder = Path(self._folder.name) / f"reference-{len(self._references)}"
            self._references[key] = build_artefact(program(), folder, target, name=NAME, choose=choice_for(target))
        return self._references[key]

    def _note(self, member: _Member, event: str, **values: Any) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        line = {"time": now, "device": member.device.target.name, "event": event, **values}
        append_line(self._log, json.dumps(line) + "\n", flush=False)


def _build_key(target: Target) -> tuple[Any, ...]:
    return target.arch, target.isa, target.zig_triple, target.limits.memory_bytes


def _read_reference(log: Path) -> float | None:
    """The reference's median of an earlier part of the same search."""
    lines = log.read_text().splitlines() if log.is_file() else []
    found = [event for event in map(json.loads, lines) if event["event"] == "reference"]
    return float(found[0]["latency_ms"]) if found else None
