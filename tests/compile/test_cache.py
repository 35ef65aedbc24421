"""The kernel cache survives damage and concurrent writers."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qsearch.compile import cache, kernels
from qsearch.compile.specs import ConvSpec, ImageSpec, OutSpec
from qsearch.errors import QsearchError

SPEC = ImageSpec(3, 1)
TARGET = kernels.host_target("generic")


def test_a_kernel_is_built_once(tmp_path: Path) -> None:
    path = cache.kernel_object(SPEC, "generic", TARGET, tmp_path)
    built = path.stat().st_mtime_ns
    assert cache.kernel_object(SPEC, "generic", TARGET, tmp_path) == path
    assert path.stat().st_mtime_ns == built
    other = ConvSpec((1, 1), 1, (0, 0), 4, 0, 4, (OutSpec(4, 0),))
    assert cache.kernel_object(other, "generic", TARGET, tmp_path) != path
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed", "no checksums"])
def test_a_damaged_kernel_is_rebuilt(damage: str, tmp_path: Path) -> None:
    path = cache.kernel_object(SPEC, "generic", TARGET, tmp_path)
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:100])
    elif damage == "flipped":
        path.write_bytes(content[:200] + bytes([content[200] ^ 1]) + content[201:])
    elif damage == "removed":
        path.unlink()
    else:
        (path.parent / "checksums.json").write_text("{")
    assert cache.kernel_object(SPEC, "generic", TARGET, tmp_path).read_bytes() == content
    assert len(list(tmp_path.iterdir())) == 1


def test_concurrent_writers_share_one_kernel(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from qsearch.compile.cache import host_kernel\n"
        "from qsearch.compile.specs import ImageSpec\n"
        "host_kernel(ImageSpec(3, 1), 'generic', pathlib.Path(sys.argv[1]))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    files = sorted(path.name for entry in tmp_path.iterdir() for path in entry.iterdir())
    assert files == ["checksums.json", "checksums.json", "kernel.o", "kernel.so"]


@pytest.mark.parametrize("moment", ["kernel.o", "checksums.json"])
def test_a_writer_that_is_killed_leaves_nothing_that_is_read(moment: str, tmp_path: Path) -> None:
    code = (
        "import os, pathlib, signal, sys\n"
        "from qsearch.compile import cache\n"
        "from tests.compile.test_cache import SPEC, TARGET\n"
        "def watch(event, arguments):\n"
        "    path = str(arguments[0]) if event == 'open' else ''\n"
        "    if '.building-' in path and path.endswith(sys.argv[2]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(watch)\n"
        "cache.kernel_object(SPEC, 'generic', TARGET, pathlib.Path(sys.argv[1]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path), moment])
    assert killed.returncode == -signal.SIGKILL
    assert [path.name.startswith(".building-") for path in tmp_path.iterdir()] == [True]
    path = cache.kernel_object(SPEC, "generic", TARGET, tmp_path)
    whole = cache.kernel_object(SPEC, "generic", TARGET, tmp_path / "other")
    assert path.read_bytes() == whole.read_bytes()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(QsearchError, match=str(blocked)):
        cache.kernel_object(SPEC, "generic", TARGET, blocked)
