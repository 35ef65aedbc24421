"""The fastest form of every layer is measured once, remembered, and gives the same bytes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qsearch.compile import kernels, tuning
from qsearch.compile.host import HostNetwork
from qsearch.target import load_target
from tests.random_programs import Layer, build_program, reference

LAYERS = [Layer(16), Layer(3)]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures shortly: the tests look at what is remembered, not at what is fast."""
    monkeypatch.setattr(tuning, "_SECONDS", 0.002)


def chosen(folder: Path) -> list[kernels.ConvSpec]:
    network = HostNetwork(build_program(LAYERS, seed=1), 1, cache=folder, choose=tuning.measured(1, folder))
    return [step.spec for step in network.plan.steps if isinstance(step.spec, kernels.ConvSpec)]


def test_a_measured_network_gives_the_same_bytes(tmp_path: Path) -> None:
    program = build_program(LAYERS, seed=1)
    network = HostNetwork(program, 1, cache=tmp_path, choose=tuning.measured(1, tmp_path))
    image = np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)
    np.testing.assert_array_equal(network.run(image), reference(program, image))


def test_choices_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = chosen(tmp_path)

    def again(*_: object) -> list[float]:
        raise AssertionError("measured again")

    monkeypatch.setattr(tuning, "_seconds", again)
    assert chosen(tmp_path) == first


def test_a_damaged_choice_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen(tmp_path)
    files = sorted((tmp_path / tuning.CHOICES).iterdir())
    for content, file in zip(("{", '{"best_ms": {"unknown": 1}}', "[]"), files, strict=False):
        file.write_text(content)
    # Whatever is slow may be chosen now, as long as it is one of the forms.
    monkeypatch.setattr(tuning, "_seconds", lambda calls, _: [float(i == 0) for i in range(len(calls))])
    assert len(chosen(tmp_path)) == len(LAYERS)
    assert all(tuning._remembered(file) for file in files)


def test_processes_share_choices(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from qsearch.compile import tuning\n"
        "from tests.compile.test_tuning import chosen\n"
        "tuning._SECONDS = 0.002\n"
        "chosen(pathlib.Path(sys.argv[1]))\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    chosen(tmp_path)
    assert other.wait() == 0
    assert all(tuning._remembered(file) for file in (tmp_path / tuning.CHOICES).iterdir())


def test_nothing_is_measured_for_another_machine() -> None:
    other = load_target("host").model_copy(update={"cpu": "another"})
    assert tuning.for_target(other) is kernels.expected
    assert tuning.for_target(load_target("host")) is not kernels.expected
