"""The command line inside this process: importing torch and TVM for every command would take seconds each."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from qsearch import cli


@dataclass(frozen=True)
class Done:
    """What a command left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def result(self) -> Any:
        """The JSON object in the last line of standard output."""
        return json.loads(self.out.splitlines()[-1])


def command(*arguments: object) -> Done:
    """Run `qsearch` with `arguments`, as its entry point does."""
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with (
        patch.object(sys, "argv", ["qsearch", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


def succeed(*arguments: object) -> Any:
    """The result of a command that must succeed."""
    done = command(*arguments)
    assert done.status == 0, done.err
    return done.result


def refuse(*arguments: object) -> str:
    """The one line with which a command refuses, without `error: `."""
    done = command(*arguments)
    assert done.status == 2, (done.status, done.out, done.err)
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert lines == done.err.splitlines()[-1:], done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    return lines[0].removeprefix("error: ")


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below `folder`: bytes by path, None for folders."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }
