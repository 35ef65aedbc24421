"""Files and folders: a failure leaves the old content, and nothing half written."""

import os
from pathlib import Path

import pytest

from qsearch.errors import QsearchError
from qsearch.files import new_folder, read_json, require_free, staged_folder, write_atomic, write_json
from tests.command_line import contents


def test_writing_makes_folders_and_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_atomic(path, "long first content")
    write_atomic(path, b"short")
    assert contents(tmp_path) == {"a": None, "a/b.txt": b"short"}
    write_json(path, {"key": [1, 2]})
    assert read_json(path) == {"key": [1, 2]}


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(QsearchError, match=r"cannot write .*file: No space left on device"):
        write_atomic(path, "new")
    assert contents(tmp_path) == {"file": b"old"}


def test_written_files_have_the_usual_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        write_atomic(tmp_path / "file", "")
        with staged_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(mask)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("place", ["file/below", "file"])
def test_a_place_below_or_at_a_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(QsearchError, match="file"):
        new_folder(tmp_path / place)
    with pytest.raises(QsearchError, match="file"), staged_folder(tmp_path / place):
        pass
    assert contents(tmp_path) == {"file": b"mine"}


def test_a_full_folder_is_refused_and_an_empty_one_taken(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis").write_text("mine")
    for refuse in (require_free, new_folder):
        with pytest.raises(QsearchError, match="not empty"):
            refuse(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    require_free(tmp_path / "empty")
    with staged_folder(tmp_path / "empty") as folder:
        (folder / "made").write_text("new")
    assert contents(tmp_path / "empty") == {"made": b"new"}


@pytest.mark.parametrize("error", [QsearchError("no"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_block_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with staged_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises((QsearchError, KeyboardInterrupt)):
        fail()
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_file_that_is_no_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(QsearchError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(QsearchError, match=r"cannot read .*b\.json"):
        read_json(tmp_path / "b.json")
