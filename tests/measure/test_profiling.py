"""Filling tables on real devices and from the cycle model, and lint on both."""

from pathlib import Path

import numpy as np
import pytest

from qsearch.compile import kernels
from qsearch.compile.specs import ConvSpec, OutSpec
from qsearch.measure.cycle_check import random_convolution
from qsearch.measure.lint import lint
from qsearch.measure.operations import Operation, OperationTable, OperationTime
from qsearch.measure.probe import probe_plan, probe_step
from qsearch.measure.profiling import Layer, Timed, fill, layers_of, open_table, probe_of
from qsearch.measure.vocabulary import vocabulary
from qsearch.target import Target, load_target
from tests.artefacts import small_program
from tests.measure.boards import arm_target

SIZE = (24, 40)
SHORT = Timed(rounds=2, seconds=5)
A53 = Target(name="board", arch="aarch64", cpu="Cortex-A53", features=("asimd",), threads=1,
             reach={"kind": "emulated"})  # fmt: skip


def filled(layers: list[Layer], target: Target, ms: dict[str, float]) -> OperationTable:
    """A table in which each operation takes what `ms` says of its label, or 1 ms."""
    table = OperationTable(target.name, target.isa, 1, False, {})
    for layer in layers:
        value, operation = ms.get(layer.operation.label, 1.0), layer.operation
        table.times[operation.key] = OperationTime(
            operation.label, operation.form, operation.size, value, value, value, value, 9, operation.gmac
        )
    return table


def test_operations_are_timed_once_on_the_device_itself(tmp_path: Path) -> None:
    target = load_target("host")
    plan, layers = layers_of(small_program(), target, SIZE)
    table = open_table(target, 1, tmp_path)
    assert not table.modelled
    assert fill(table, layers, target, SHORT, folder=tmp_path) == len({layer.operation for layer in layers})
    again = open_table(target, 1, tmp_path)
    assert again.times == table.times
    assert fill(again, layers, target, SHORT, folder=tmp_path) == 0
    found = again.predict(plan, SIZE)
    assert found.missing == ()
    assert 0 < found.min_ms <= found.ms
    assert again.conditions["rounds"] == 2


def test_a_board_that_is_not_there_is_modelled(tmp_path: Path) -> None:
    _, layers = layers_of(small_program(), A53, SIZE)
    table = open_table(A53, 1, tmp_path)
    fill(table, layers[:1], A53, folder=tmp_path)
    assert table.modelled
    assert table.metric == "latency_modelled_ms"
    assert "modelled, not measured" in table.conditions["method"]
    assert all(time.ms > 0 for time in table.times.values())


def test_every_usual_operation_has_a_probe() -> None:
    """For a board that is not there: nothing is run."""
    target = arm_target({"kind": "emulated"})
    probes = [probe_of(layer, target.isa) for layer in vocabulary(target, SIZE)]
    plan = probe_plan(probes, target.isa)
    sizes = plan.sizes(*SIZE)
    for index, probe in enumerate(probes):
        step = next(step for step in plan.steps if step.name == probe_step(index))
        assert step.spec == probe.operation.spec
        assert sizes[step.input] == SIZE
        assert all(name in plan.params for name in step.params)


def layer_of(spec: ConvSpec, name: str = "conv", weight: np.ndarray | None = None) -> Layer:
    target = load_target("host")
    conv = random_convolution(spec, 8, 8)
    if weight is not None:
        conv.weight[:] = weight
    return Layer(name, Operation(kernels.plain(spec, target.isa, conv), SIZE), conv)


def test_lint_names_what_does_not_pay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a table that says so: an identity, a large kernel, a skip that is free."""
    target = load_target("host")
    delta = np.zeros((32, 32, 3, 3), np.int8)
    delta[np.arange(32), np.arange(32), 1, 1] = 3
    body = ConvSpec((3, 3), 1, (1, 1), 32, 1, 32, (OutSpec(32, 1),))
    nine = ConvSpec((9, 9), 1, (4, 4), 32, 4, 3, (OutSpec(3, 0),))
    layers = [layer_of(body, "body"), layer_of(body, "identity", delta), layer_of(nine, "end")]
    costs = {"conv 9×9 32→3": 7.0, "conv 3×3 32→3": 2.0, "conv 3×3 32→32": 1.5}
    asked: list[Layer] = []

    def from_costs(table: OperationTable, layers: list[Layer], *_: object) -> int:
        asked.extend(layers)
        table.times.update(filled(layers, target, costs).times)
        return len(layers)

    monkeypatch.setattr("qsearch.measure.lint.fill", from_costs)
    found = {finding.rule: finding for finding in lint(layers, filled(layers, target, costs), target)}
    assert found["large kernel"].saves == 5.0
    assert found["large kernel"].layers == ("end",)
    assert found["identity convolution"].layers == ("identity",)
    assert found["identity convolution"].saves == 1.5
    assert "body" not in {name for finding in found.values() for name in finding.layers}
    assert any(layer.operation.label == "conv 3×3 32→3" for layer in asked), "the alternative is in the table"
