"""Devices: the conformance of every implementation, and what local refuses."""

import shutil
from pathlib import Path

import pytest

from qsearch.errors import QsearchError
from qsearch.measure import LocalDevice, open_device
from qsearch.target import load_target
from tests.artefacts import small_artefact


def test_local_bench_gives_latency_with_conditions() -> None:
    device = open_device(load_target("host"))
    found = device.bench(small_artefact(), rounds=3, size=(24, 40), threads=1)
    assert 0 < found.min_ms <= found.latency_ms <= found.p90_ms
    assert 100_000 < found.peak_rss_bytes < 100 << 20
    assert (found.conditions.size, found.conditions.threads, found.conditions.rounds) == ((24, 40), 1, 3)
    assert found.conditions.cpu == device.target.cpu
    assert found.conditions.device == "host"


def test_a_broken_artefact_gives_one_clear_error(tmp_path: Path) -> None:
    device = open_device(load_target("host"))
    with pytest.raises(QsearchError, match=r"manifest\.json"):
        device.bench(tmp_path)
    shutil.copy(small_artefact() / "manifest.json", tmp_path)
    (tmp_path / "small").write_text("not an executable")
    with pytest.raises(QsearchError, match=r"cannot run .*small"):
        device.bench(tmp_path)


def test_a_target_that_this_machine_is_not() -> None:
    target = load_target("host")
    other = "aarch64" if target.arch == "x86_64" else "x86_64"
    with pytest.raises(QsearchError, match="cannot be reached as local: this machine is"):
        LocalDevice(target.model_copy(update={"arch": other, "features": ()}))
    with pytest.raises(QsearchError, match="lacks amx_tile"):
        LocalDevice(target.model_copy(update={"features": ("amx_tile",)}))
