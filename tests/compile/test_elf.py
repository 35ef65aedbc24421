"""Renaming symbols of object files."""

from pathlib import Path

import pytest

from qsearch.compile import link
from qsearch.compile.elf import rename_symbols
from qsearch.errors import QsearchError


@pytest.mark.parametrize("triple", ["x86_64-linux-musl", "aarch64-linux-musl", "arm-linux-musleabihf"])
def test_renamed_objects_link_only_under_the_new_names(tmp_path: Path, triple: str) -> None:
    (tmp_path / "a.c").write_text(
        "int k_b(int); static int s(int x) { return x * 3; } int k_a(int x) { return k_b(s(x)); }"
    )
    (tmp_path / "b.c").write_text("int k_b(int x) { return x + 1; }")
    (tmp_path / "main.c").write_text("int n_k_a(int); int main(void) { return n_k_a(2); }")
    objects = [link.compile_c(f"{name}.c", triple, tmp_path, tmp_path) for name in ("a", "b", "main")]
    for name in objects[:2]:
        path = tmp_path / name
        path.write_bytes(rename_symbols(path.read_bytes(), lambda old: f"n_{old}" if old.startswith("k_") else old))
        assert b"n_k_b" in path.read_bytes()
    # Without the C library, which zig would have to build for every triple.
    link.run_zig(["cc", "-target", triple, "-nostdlib", "-Wl,-e,main", *objects, "-o", "program"], tmp_path)


def test_unchanged_without_new_names(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_text("int f(void) { return 1; }")
    code = (tmp_path / link.compile_c("a.c", "x86_64-linux-musl", tmp_path, tmp_path)).read_bytes()
    assert rename_symbols(code, lambda name: name) == code


def test_not_elf() -> None:
    with pytest.raises(QsearchError, match="not little-endian ELF"):
        rename_symbols(b"MZ not an object", str)
