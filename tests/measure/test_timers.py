"""Interleaved timing: order of the rounds, ratios, intervals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsearch.errors import QsearchError
from qsearch.measure import interleave
from qsearch.measure.timers import median_interval


def test_rounds_are_interleaved_and_ratios_are_paired() -> None:
    calls: list[str] = []
    functions = {"short": lambda: calls.append("s"), "long": lambda: calls.append("l") or sum(range(20000))}
    found = interleave(functions, rounds=7, min_sample_ms=0, threads=2, size=(180, 320), device="here")
    warm_up = 2 * 2
    assert "".join(calls[warm_up:]) == "sl" + "lssl" * 3
    assert found.reference == "short"
    assert list(found.ratios) == ["long"]
    ratio = found.ratios["long"]
    assert ratio.low <= ratio.median <= ratio.high
    samples = [found.timings[name].samples_ms for name in ("long", "short")]
    paired = sorted(a / b for a, b in zip(*samples, strict=True))
    assert ratio.median == pytest.approx(paired[3])
    assert found.conditions.device == "here"
    assert (found.conditions.threads, found.conditions.size, found.conditions.rounds) == (2, (180, 320), 7)


def test_short_functions_are_repeated_within_a_sample() -> None:
    calls: list[None] = []
    interleave({"f": lambda: calls.append(None)}, rounds=1, min_sample_ms=1)
    assert len(calls) > 10


def test_median_interval_covers_the_median_by_order_statistics() -> None:
    values = [float(v) for v in range(1, 21)]
    # For 20 values the 95 % interval runs from the 6th to the 15th (any table of the sign test).
    assert median_interval(values) == (10.5, 6.0, 15.0)
    assert median_interval([3.0]) == (3.0, 3.0, 3.0)
    assert median_interval([1.0, 2.0, 9.0]) == (2.0, 1.0, 9.0)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=60))
def test_median_lies_in_its_interval(values: list[float]) -> None:
    median, low, high = median_interval(values)
    assert min(values) <= low <= high <= max(values)
    assert low <= median <= high or math.isclose(low, high)


def test_mistakes() -> None:
    with pytest.raises(QsearchError, match="at least one function"):
        interleave({})
    with pytest.raises(QsearchError, match="unknown timing reference 'b'"):
        interleave({"a": lambda: None}, reference="b")
