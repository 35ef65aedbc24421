"""Rounds until the interval is narrow: when they end, and what they say."""

from collections.abc import Callable
from typing import Any

import pytest

from qsearch.errors import QsearchError
from qsearch.measure.bench import interval_width, parse_bench, run_rounds, summarize
from qsearch.measure.sensors import parse
from qsearch.measure.timers import now_conditions


def stub(latencies: list[float], calls: list[str], name: str) -> Callable[[int], dict[str, Any]]:
    """A bench whose rounds give `latencies` in turn; its first call is the one that counts the runs."""
    count = 0

    def bench(runs: int) -> dict[str, Any]:
        nonlocal count
        calls.append(name)
        value = latencies[max(count - 1, 0) % len(latencies)]
        count += 1
        return {"latency_ms": value, "min_ms": value / 2, "peak_rss_bytes": 1000 + runs}

    return bench


def test_rounds_alternate_and_end_when_the_ratio_is_known() -> None:
    calls: list[str] = []
    drift = [10.0, 20.0, 15.0, 30.0]
    done = run_rounds(stub(drift, calls, "a"), stub([2 * v for v in drift], calls, "b"), 100, 0.01, 60)
    assert "".join(calls) == "ab" + "abba" * 4
    assert done.ratio is not None
    assert (done.ratio.low, done.ratio.median, done.ratio.high) == (0.5, 0.5, 0.5)
    assert done.converged(0.01), "the latency drifts by a factor of three, its ratio does not"
    assert (done.min_ms, done.peak_rss_bytes) == (5.0, 1010)


def test_a_wide_interval_is_said_to_be_wide() -> None:
    done = run_rounds(stub([10.0, 20.0], [], "a"), None, 12, 0.02, 60)
    found = summarize(done, 0.02, now_conditions("here", 1, (3, 4), 12))
    assert len(done.samples_ms) == 12
    assert (found.latency_ms, found.low_ms, found.high_ms, found.converged) == (15.0, 10.0, 20.0, False)
    assert interval_width(15.0, 10.0, 20.0) == pytest.approx(1 / 3)


def test_time_ends_it_and_nonsense_is_refused() -> None:
    assert len(run_rounds(stub([10.0, 30.0], [], "a"), None, 1000, 0.02, 1e-9).samples_ms) == 1
    for rounds, limit, seconds in ((0, 0.02, 1.0), (1, 0.0, 1.0), (1, 0.02, 0.0)):
        with pytest.raises(QsearchError, match="at least one round"):
            run_rounds(stub([1.0], [], "a"), None, rounds, limit, seconds)
    with pytest.raises(QsearchError, match="device x gave no figures"):
        parse_bench(b"Killed\n", "x")


def test_sensors_as_boards_print_them() -> None:
    board = parse("0.31 0.20 0.10 1/90 1234\n\nT 48312\nT 51000\nT 0\nF 1400000\nF 2400000\n")
    assert (board.load_average, board.temperature_c, board.frequency_mhz) == (0.31, 51.0, 2400.0)
    server = parse("2.50 1.00 0.50 3/400 99\n\ncpu MHz\t\t: 2596.122\n")
    assert (server.temperature_c, server.frequency_mhz) == (None, 2596.122)
    assert parse("").temperature_c is None
