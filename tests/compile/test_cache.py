"""The kernel cache survives damage and concurrent writers."""

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
    (entry,) = tmp_path.iterdir()
    assert {path.name for path in entry.iterdir()} == {"kernel.o", "kernel.so", "checksums.json"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(QsearchError, match=str(blocked)):
        cache.kernel_object(SPEC, "generic", TARGET, blocked)
