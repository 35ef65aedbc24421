"""Cycles of straight code by llvm-mca, which knows the scheduling models of processors."""

import os
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from qsearch.errors import QsearchError

_NAME = re.compile(r"llvm-mca(?:-(\d+))?$")
_SECONDS = 120
# Releases before these take the model of another core under these names.
_SINCE = {"neoverse-n1": 16, "neoverse-v1": 17, "neoverse-v2": 17, "znver4": 16, "znver5": 20}
# Enough rounds that filling and draining the pipeline does not count, few enough for code of thousands of lines.
_INSTRUCTIONS, _ROUNDS = 20_000, (8, 100)


@cache
def find_tool() -> tuple[str, str] | None:
    """The newest llvm-mca on the path and its version, or None."""
    found: dict[str, tuple[int, ...]] = {}
    for folder in os.get_exec_path():
        for path in sorted(Path(folder).glob("llvm-mca*")) if Path(folder).is_dir() else []:
            version = _version(str(path)) if _NAME.match(path.name) else None
            if version:
                found[str(path)] = version
    if not found:
        return None
    best = max(found, key=lambda path: found[path])
    return best, ".".join(map(str, found[best]))


def _version(path: str) -> tuple[int, ...] | None:
    try:
        result = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", result.stdout)
    return tuple(map(int, match.groups())) if match else None


@cache
def knows(triple: str, cpu: str) -> bool:
    """Whether the installed llvm-mca has a scheduling model of `cpu`."""
    tool = find_tool()
    if tool is None or cpu == "none" or int(tool[1].split(".")[0]) < _SINCE.get(cpu, 0):
        return False
    result = _run(tool[0], triple, cpu, (), 1, "nop\n")
    return result.returncode == 0 and "not a recognized processor" not in result.stderr


def cycles(triple: str, cpu: str, features: Sequence[str], code: Sequence[str]) -> float | None:
    """Cycles of one round of `code` (instructions, at least one) in a loop; None where one has no scheduling data.

    `features` are LLVM's words. Loads find their data in the first cache. Needs `knows(triple, cpu)`.
    """
    tool = find_tool()
    assert tool is not None
    low, high = _ROUNDS
    rounds = min(max(_INSTRUCTIONS // len(code), low), high)
    result = _run(tool[0], triple, cpu, tuple(features), rounds, "\n".join(code) + "\n")
    total = re.search(r"Total Cycles:\s+(\d+)", result.stdout)
    return int(total[1]) / rounds if result.returncode == 0 and total else None


def _run(
    tool: str, triple: str, cpu: str, features: tuple[str, ...], rounds: int, code: str
) -> "subprocess.CompletedProcess[str]":
    command = [
        tool, f"-mtriple={triple}", f"-mcpu={cpu}", f"-mattr={','.join(f'+{feature}' for feature in features)}",
        f"-iterations={rounds}", "-instruction-info=0", "-resource-pressure=0",
    ]  # fmt: skip
    try:
        return subprocess.run(command, input=code, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QsearchError(f"{tool} does not answer: {error}") from error
