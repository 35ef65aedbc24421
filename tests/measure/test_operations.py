"""Operation tables: what they keep, how they predict, and that tiles are those of an artefact."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.compile.memory import tile_bytes
from qsearch.compile.plan import Plan, build
from qsearch.compile.specs import ConvSpec, OutSpec, SkipSpec
from qsearch.errors import QsearchError
from qsearch.measure.operations import Operation, OperationTable, OperationTime, operations_of, table_path
from qsearch.measure.tiling import tiles_of
from tests.artefacts import small_program
from tests.measure.boards import arm_target, host_target

SPEC = ConvSpec((3, 3), 1, (1, 1), 28, 1, 27, (OutSpec(3, 0),), (SkipSpec(4, 1, 9),), shuffle=3)


def plan() -> Plan:
    return build(small_program(), "generic")


def table_of(size: tuple[int, int], ms: float, *, modelled: bool = False) -> OperationTable:
    """Every operation of the small network takes `ms`, its interval and fastest round 10 % to each side."""
    table = OperationTable("board", "generic", 1, modelled, {"date": "today"}, overhead_ms=0.5)
    for operation in operations_of(plan(), size):
        table.times[operation.key] = OperationTime(
            operation.label, operation.form, operation.size, ms, ms * 0.9, ms * 1.1, ms * 0.9, 8, operation.gmac
        )
    return table


def test_an_operation_says_what_it_is() -> None:
    operation = Operation(SPEC, (360, 640))
    assert operation.label == "conv 3×3 28→27 shuffle 3 + anchor"
    assert operation.gmac == pytest.approx(360 * 640 * 27 * 28 * 9 / 1e9)
    assert operation.key != Operation(replace(SPEC, skips=()), (360, 640)).key


def test_a_network_is_the_sum_of_its_calls_and_the_overhead() -> None:
    calls = len(operations_of(plan(), (40, 60)))
    found = table_of((40, 60), 2.0).predict(plan(), (40, 60))
    assert found.ms == pytest.approx(2.0 * calls + 0.5)
    assert found.low_ms < found.ms < found.high_ms
    assert (found.scaled, found.missing) == (0, ())


def test_another_size_is_scaled_by_its_pixels_and_says_so() -> None:
    calls = len(operations_of(plan(), (40, 60)))
    found = table_of((40, 60), 2.0).predict(plan(), (80, 60))
    assert found.ms == pytest.approx(4.0 * calls + 0.5)
    assert found.scaled == calls
    assert OperationTable("board", "generic", 1, False, {}).predict(plan(), (80, 60)).missing


@pytest.mark.parametrize("modelled", [False, True])
def test_a_table_comes_back_from_its_file_and_never_mixes_names(tmp_path: Path, modelled: bool) -> None:
    table = table_of((40, 60), 2.0, modelled=modelled)
    table.save(tmp_path / "table.json")
    text = (tmp_path / "table.json").read_text()
    assert ('"latency_modelled_ms"' in text, '"latency_ms"' in text) == (modelled, not modelled)
    again = OperationTable.load(tmp_path / "table.json")
    assert again.modelled == modelled
    assert again.predict(plan(), (40, 60)).ms == table.predict(plan(), (40, 60)).ms
    (tmp_path / "table.json").write_text('{"version": 0}')
    with pytest.raises(QsearchError, match="remove it"):
        OperationTable.load(tmp_path / "table.json")


def test_a_device_and_its_emulation_have_tables_of_their_own(tmp_path: Path) -> None:
    real = host_target({"kind": "local"})
    assert table_path(real, 1, tmp_path) != table_path(real, 2, tmp_path)
    emulated = arm_target({"kind": "emulated"})
    board = arm_target({"kind": "command", "copy": "cp {source} {destination}", "run": "sh -c {command}"})
    assert table_path(emulated, 1, tmp_path) != table_path(board, 1, tmp_path)


@given(st.integers(11, 300), st.integers(11, 300), st.integers(17, 24))
def test_tiles_cover_the_image_and_fit_in_memory(height: int, width: int, limit: int) -> None:
    network = plan()
    (rows, columns), count = tiles_of(network, (height, width), 1 << limit)
    assert tile_bytes(network, rows, columns) <= 1 << limit
    assert rows <= height
    assert columns <= width
    # What a tile keeps is at most itself, and both of its halos less where it has two neighbours.
    assert count * rows * columns >= height * width
    if tile_bytes(network, height, width) <= 1 << limit:
        assert (rows, columns, count) == (height, width, 1)


def test_no_tile_is_one_line() -> None:
    with pytest.raises(QsearchError, match="no tile"):
        tiles_of(plan(), (100, 100), 1 << 10)
