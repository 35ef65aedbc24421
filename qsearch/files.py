"""Writing files so that a kill or a full disk leaves the old content intact."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qsearch.errors import QsearchError


def write_atomic(path: Path | str, content: bytes | str) -> None:
    """Write `content` to `path` through a temporary file and a rename; raises `QsearchError` when it cannot."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise QsearchError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path | str) -> Any:
    """The JSON value in `path`; raises `QsearchError` naming the file when it is absent or not JSON."""
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise QsearchError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise QsearchError(f"{path} is not valid JSON: {error}") from error


def append_line(path: Path, lines: str, flush: bool) -> None:
    """Append whole lines; with `flush` they are on the disk when this returns. Raises `QsearchError` when it cannot."""
    try:
        with path.open("ab") as file:
            file.write(lines.encode())
            file.flush()
            if flush:
                os.fsync(file.fileno())
    except OSError as error:
        raise QsearchError(f"cannot write {path}: {error.strerror or error}") from error


def drop_torn_tail(path: Path) -> None:
    """Cut a last line that a kill left unfinished, so that the next line starts on its own."""
    if not path.exists():
        return
    try:
        with path.open("r+b") as file:
            content = file.read()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
    except OSError as error:
        raise QsearchError(f"cannot write {path}: {error.strerror or error}") from error


def require_free(path: Path | str) -> None:
    """Raise `QsearchError` unless the output folder `path` is absent or empty; long work asks this first."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise QsearchError(f"{path} exists and is not a folder: choose another output folder")
    if path.is_dir() and any(path.iterdir()):
        raise QsearchError(f"output folder {path} exists and is not empty: choose another, or remove it first")


def new_folder(path: Path | str) -> Path:
    """Create the output folder `path`; raises `QsearchError` if it holds anything."""
    path = Path(path)
    require_free(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise QsearchError(f"cannot create folder {path}: {error.strerror or error}") from error
    return path


@contextmanager
def staged_folder(path: Path | str) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends well; else nothing is left of it.

    Raises `QsearchError` where `path` holds anything or cannot be made.
    """
    path = Path(path)
    require_free(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise QsearchError(f"cannot create folder {path}: {error.strerror or error}") from error
    try:
        yield staging
        os.chmod(staging, 0o777 & ~_umask())
        os.replace(staging, path)
    except OSError as error:
        raise QsearchError(f"cannot write folder {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
