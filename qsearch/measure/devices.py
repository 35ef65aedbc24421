"""Devices: an artefact is copied to where the device is, run there, checked byte for byte, and timed."""

import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qsearch.compile.emulation import PACKAGE, emulator
from qsearch.compile.manifest import damaged_files, read_manifest
from qsearch.compile.ppm import decode_ppm, encode_ppm
from qsearch.compile.run_artefact import Verification
from qsearch.errors import QsearchError
from qsearch.host import detect_host
from qsearch.measure import sensors
from qsearch.measure.bench import (
    CI_LIMIT,
    BenchResult,
    RunBench,
    parse_bench,
    parse_profile,
    run_rounds,
    summarize,
)
from qsearch.measure.binary import require_runnable
from qsearch.measure.rpc import RpcShell
from qsearch.measure.shells import Answer, CommandShell, DeviceLostError, LocalShell, Shell
from qsearch.measure.timers import Conditions, now_conditions
from qsearch.reach import CommandReach, EmulatedReach, LocalReach, RpcReach
from qsearch.target import Target

T = TypeVar("T")


class Device:
    """A live device of a target.

    `emulated` says that its bytes are right and its time means nothing; `prefix` starts every executable, such as an
    emulator's command. Methods raise `QsearchError` for an artefact that does not run there, and `DeviceLostError`
    where nothing answers within `timeout_s` of the target file, in 1 + `retries` attempts.
    """

    def __init__(
        self, target: Target, shell: Shell, prefix: str = "", emulated: bool = False, retries: int = 0
    ) -> None:
        self.target, self.emulated, self.shell = target, emulated, shell
        self._prefix, self._retries = prefix, retries
        self._there: dict[Path, str] = {}
        self._count = 0

    def run(self, artefact: Path | str, image: NDArray[np.uint8], tile: int | None = None) -> NDArray[np.uint8]:
        """The artefact's output uint8 `[H·u, W·u, 3]` for `image` uint8 `[H, W, 3]`."""
        executable = self._checked(artefact)
        options = ["-", "-", *(["--tile", str(tile)] if tile else [])]
        answer = self._again(lambda: self._execute(executable, options, encode_ppm(image)))
        return decode_ppm(answer.stdout, f"what device {self.target.name} sent")

    def verify(self, artefact: Path | str, tiles: bool = True) -> Verification:
        """Check the SHA-256 of every file here, then the golden bytes there, in one piece and in tiles."""
        folder = Path(artefact)
        manifest = read_manifest(folder)
        problems = damaged_files(folder, manifest)
        if not problems:
            image, expected = (decode_ppm((folder / manifest["golden"][k]).read_bytes()) for k in ("input", "output"))
            side = max(image.shape[:2]) - 1
            for tile in (None, side) if tiles and side > 2 * manifest["halo"] else (None,):
                found = self.run(folder, image, tile)
                different = int((found != expected).sum()) if found.shape == expected.shape else expected.size
                if different:
                    what = "in tiles" if tile else "in one piece"
                    problems.append(f"{different} bytes differ {what} on device {self.target.name}")
        runner = Path(self._prefix.partition(" ")[0]).name or "native"
        return Verification(len(manifest["files"]), tuple(problems), runner)

    def bench(
        self,
        artefact: Path | str,
        rounds: int = 128,
        size: tuple[int, int] = (180, 320),
        threads: int | None = None,
        *,
        reference: Path | str | None = None,
        image: NDArray[np.uint8] | None = None,
        ci_limit: float = CI_LIMIT,
        seconds: float = 60.0,
    ) -> BenchResult:
        """Time `artefact` on noise of `size` = (height, width), alternating with `reference` where one is given.

        With patches time depends on the picture: `image` uint8 [H, W, 3] is taken instead.

        Rounds are repeated until the 95 % confidence interval is within `ci_limit` of the median, at most `rounds`
        times and for about `seconds`; `converged` says which. `threads` None takes the target's. An emulated device
        refuses.
        """
        self._require_time()
        threads = threads or self.target.threads
        size, picture = (size, b"") if image is None else (image.shape[:2], encode_ppm(image))
        options = ["-"] if picture else ["--size", f"{size[1]}x{size[0]}"]
        options += ["--threads", str(threads)]
        candidate = self._bench_of(self._checked(artefact), options, picture)
        other = self._bench_of(self._checked(reference), options, picture) if reference else None

        def measure() -> BenchResult:
            before, conditions = self._reading(), now_conditions(self.target.name, threads, size, rounds)
            done = run_rounds(candidate, other, rounds, ci_limit, seconds)
            return summarize(done, ci_limit, self._conditions(conditions, before, len(done.samples_ms)))

        return self._again(measure)

    def profile(
        self, artefact: Path | str, size: tuple[int, int], threads: int | None = None, runs: int = 1
    ) -> dict[str, float]:
        """Mean milliseconds of every step over `runs` runs of one process after a warm-up, by its name.

        `size` is (height, width). An emulated device refuses.
        """
        self._require_time()
        options = ["--profile", str(runs), "--size", f"{size[1]}x{size[0]}"]
        options += ["--threads", str(threads or self.target.threads)]
        executable = self._checked(artefact)
        answer = self._again(lambda: self._execute(executable, options))
        return parse_profile(answer.stdout, self.target.name)

    def reading(self) -> sensors.Reading:
        """Load, temperature and clock of the device, as far as it tells."""
        return self._again(self._reading)

    def forget(self, artefact: Path | str) -> None:
        """Remove the artefact from the device, which keeps what it has run until it is closed."""
        name = self._there.pop(self._executable(artefact), None)
        if name:
            self._again(lambda: self.shell.run(f"rm -f {name}"))

    def close(self) -> None:
        """Remove what was copied and let the device go."""
        self._there.clear()
        self.shell.close()

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _require_time(self) -> None:
        if self.emulated:
            raise QsearchError(
                f"device {self.target.name} is emulated and cannot be timed: emulated time is never a latency; "
                "give its target file a [reach] to a real one"
            )

    def _checked(self, artefact: Path | str) -> Path:
        executable = self._executable(artefact)
        require_runnable(Path(artefact), self.target)
        return executable

    def _executable(self, artefact: Path | str) -> Path:
        executable: Path = Path(artefact).resolve() / read_manifest(artefact)["executable"]
        return executable

    def _bench_of(self, executable: Path, options: list[str], stdin: bytes) -> RunBench:
        def bench(runs: int) -> dict[str, Any]:
            done = self._execute(executable, ["--bench", str(runs), *options], stdin)
            return parse_bench(done.stdout, self.target.name)

        return bench

    def _execute(self, executable: Path, options: list[str], stdin: bytes = b"") -> Answer:
        if executable not in self._there:
            self._count += 1
            name = f"{executable.name}-{self._count}"
            self.shell.put(executable, name)
            self._there[executable] = name
        words = f"./{self._there[executable]} {shlex.join(options)}"
        answer = self.shell.run(f"{self._prefix} {words}".strip(), stdin)
        if answer.status != 0:
            reason = answer.lines()[-1] if answer.lines() else f"it ended with status {answer.status}"
            raise QsearchError(f"device {self.target.name} cannot run {executable.name}: {reason}")
        return answer

    def _again(self, ask: Callable[[], T]) -> T:
        for _ in range(self._retries):
            try:
                return ask()
            except DeviceLostError:
                self._there.clear()
                self.shell.reset()
        try:
            return ask()
        except DeviceLostError:
            self._there.clear()
            self.shell.reset()
            raise

    def _reading(self) -> sensors.Reading:
        return sensors.parse(self.shell.run(sensors.COMMAND).stdout.decode(errors="replace"))

    def _conditions(self, conditions: Conditions, before: sensors.Reading, rounds: int) -> Conditions:
        after = self._reading()
        return replace(
            conditions,
            cpu=detect_host().cpu if isinstance(self.target.reach, LocalReach) else self.target.cpu,
            rounds=rounds,
            load_average=before.load_average,
            temperature_c=(before.temperature_c, after.temperature_c),
            frequency_mhz=(before.frequency_mhz, after.frequency_mhz),
        )


def can_be_timed(target: Target) -> bool:
    """Whether the device of `target` is a real one: this machine, or one that is reached; not an emulated one."""
    reach = target.reach
    return not (isinstance(reach, EmulatedReach) or (isinstance(reach, RpcReach) and reach.emulator is not None))


def open_device(target: Target) -> Device:
    """The device of `target`, by its `reach.kind`; `close` it.

    Raises `QsearchError` where this machine is not the target (local) or has no emulator for it (emulated). Other
    devices are first spoken to when they are first used.
    """
    reach = target.reach
    if isinstance(reach, CommandReach):
        return Device(target, CommandShell(target.name, reach), retries=reach.retries)
    if isinstance(reach, RpcReach):
        emulated = reach.emulator is not None
        return Device(target, RpcShell(target, reach), reach.emulator or "", emulated, reach.retries)
    shell = LocalShell(target.name, reach.timeout_s)
    if isinstance(reach, EmulatedReach):
        return Device(target, shell, f"{shlex.quote(_emulator(target, reach))} -cpu {reach.cpu}", emulated=True)
    require_this_machine(target)
    return Device(target, shell)


def _emulator(target: Target, reach: EmulatedReach) -> str:
    found = shutil.which(reach.emulator) if reach.emulator else emulator(target.arch)
    if found is None:
        missing = f"{reach.emulator} is not" if reach.emulator else f"no emulator of {target.arch} is"
        raise QsearchError(f"target {target.name} cannot be emulated: {missing} installed; install {PACKAGE}")
    return str(found)


def require_this_machine(target: Target) -> None:
    """Raise `QsearchError` unless this machine has the architecture and every feature of `target`."""
    host = detect_host()
    missing = sorted(set(target.features) - host.features)
    if host.arch != target.arch or missing:
        lacks = f"lacks {', '.join(missing)}" if missing and host.arch == target.arch else f"is {host.arch}"
        raise QsearchError(f"target {target.name} cannot be reached as local: this machine {lacks}")
