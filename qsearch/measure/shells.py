"""Getting files and commands to a device: the little that every kind of device has in common."""

import os
import shlex
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qsearch.errors import QsearchError
from qsearch.reach import CommandReach

_STATUS = "qsearch-status"


class DeviceLostError(QsearchError):
    """The device did not answer, or not in time. What it was asked may be asked again, there or elsewhere."""


@dataclass(frozen=True)
class Answer:
    """What a command on the device left."""

    status: int
    stdout: bytes
    stderr: bytes

    def lines(self) -> list[str]:
        """The lines of standard error."""
        return self.stderr.decode(errors="replace").strip().splitlines()


class Shell(Protocol):
    """A folder on a device, and `sh` in it. All methods raise `DeviceLostError` where nothing answers in time."""

    def put(self, source: Path, name: str) -> None:
        """Copy the file `source` into the folder as the executable `name`."""
        ...

    def run(self, command: str, stdin: bytes = b"") -> Answer:
        """Run the shell command in the folder."""
        ...

    def reset(self) -> None:
        """Begin anew after a loss, with an empty folder."""
        ...

    def close(self) -> None:
        """Remove the folder, as far as the device still answers."""
        ...


class LocalShell:
    """This machine, in a temporary folder."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._folder = tempfile.TemporaryDirectory(prefix="qsearch-")

    def put(self, source: Path, name: str) -> None:
        """See `Shell.put`; a link serves."""
        link = Path(self._folder.name) / name
        link.unlink(missing_ok=True)
        link.symlink_to(source.resolve())

    def run(self, command: str, stdin: bytes = b"") -> Answer:
        """See `Shell.run`."""
        return communicate(["sh", "-c", command], stdin, self._timeout_s, self._name, Path(self._folder.name))

    def reset(self) -> None:
        """See `Shell.reset`."""
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="qsearch-")

    def close(self) -> None:
        """See `Shell.close`."""
        self._folder.cleanup()


class CommandShell:
    """A device behind the user's own two commands, such as scp and ssh."""

    def __init__(self, name: str, reach: CommandReach) -> None:
        self._name, self._reach = name, reach
        self._folder = ""

    def put(self, source: Path, name: str) -> None:
        """See `Shell.put`."""
        self._make_folder()
        words = {"{source}": str(source.resolve()), "{destination}": f"{self._folder}/{name}"}
        done = communicate(_fill(self._reach.copy_command, words), b"", self._reach.timeout_s, self._name)
        if done.status != 0:
            reason = done.lines()[-1:] or [f"status {done.status}"]
            raise DeviceLostError(f"device {self._name} takes no files: `{self._reach.copy_command}` says: {reason[0]}")
        made = self.run(f"chmod 755 {name}")
        if made.status != 0:
            raise QsearchError(f"device {self._name} did not keep {name}: {' '.join(made.lines()[-1:])}")

    def run(self, command: str, stdin: bytes = b"") -> Answer:
        """See `Shell.run`. The status travels on standard error, for ssh and adb have failures of their own."""
        self._make_folder()
        return self._run(f"cd {self._folder} && {{ {command}\n}}", stdin)

    def reset(self) -> None:
        """See `Shell.reset`."""
        self._folder = ""

    def close(self) -> None:
        """See `Shell.close`."""
        if self._folder:
            folder, self._folder = self._folder, ""
            with suppress(DeviceLostError):  # it takes its folder with it
                self._run(f"rm -rf {folder}")

    def _make_folder(self) -> None:
        if self._folder:
            return
        folder = f"{self._reach.folder}/{uuid.uuid4().hex[:8]}"
        made = self._run(f"mkdir -p {folder}")
        if made.status != 0:
            raise QsearchError(f"device {self._name}: {' '.join(made.lines()[-1:])}; choose another reach.folder")
        self._folder = folder

    def _run(self, command: str, stdin: bytes = b"") -> Answer:
        script = f"{command}\necho {_STATUS} $? >&2"
        done = communicate(_fill(self._reach.run, {"{command}": script}), stdin, self._reach.timeout_s, self._name)
        head, mark, status = done.stderr.rpartition(_STATUS.encode())
        if not mark or not status.split():
            reason = done.lines()[-1:] or [f"status {done.status}"]
            raise DeviceLostError(f"device {self._name} cannot be reached: `{self._reach.run}` says: {reason[0]}")
        return Answer(int(status.split()[0]), done.stdout, head)


def communicate(
    command: Sequence[str], stdin: bytes, timeout_s: float, name: str, folder: Path | None = None
) -> Answer:
    """Run a command here for the device `name`, with all that it starts ended after `timeout_s`."""
    try:
        process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder,
            start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise QsearchError(f"device {name}: cannot run {command[0]}: {error.strerror or error}") from error
    try:
        stdout, stderr = process.communicate(stdin, timeout_s)
    except subprocess.TimeoutExpired as error:
        raise DeviceLostError(f"device {name} did not answer within {timeout_s:g} s (reach.timeout_s)") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return Answer(process.returncode, stdout, stderr)


def _fill(template: str, words: dict[str, str]) -> list[str]:
    filled = shlex.split(template)
    for place, value in words.items():
        filled = [word.replace(place, value) for word in filled]
    return filled
