"""Timing of several functions against each other: interleaved rounds, paired ratios, confidence intervals."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import comb
from typing import Any

from qsearch.errors import QsearchError
from qsearch.host import detect_host
from qsearch.measure.sensors import read_here

PAUSE_S = 0.05
"""Rest before each sample: a thread pool that still waits in a loop for work would take a core from its rival."""


@dataclass(frozen=True)
class Conditions:
    """Where and when a latency was measured; `size` is (height, width) of the input image."""

    device: str
    cpu: str
    threads: int
    size: tuple[int, int] | None
    rounds: int
    date: str
    load_average: float
    """One-minute load of the machine before the first round; a quiet machine is below 0.5."""
    temperature_c: tuple[float | None, float | None] = (None, None)
    """Of the hottest sensor before the first and after the last round; None where it cannot be read."""
    frequency_mhz: tuple[float | None, float | None] = (None, None)
    """Clock of the fastest processor, likewise."""
    picture: str = ""
    """The file that was upscaled; empty for noise."""


@dataclass(frozen=True)
class Timing:
    """One function's latency over all rounds."""

    median_ms: float
    low_ms: float
    high_ms: float
    """Bounds of the 95 % confidence interval of the median."""
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class Ratio:
    """A function's time over the reference's, paired round by round: median and 95 % confidence interval."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Timings by name; `ratios` are against `reference` and leave it out."""

    timings: dict[str, Timing]
    reference: str
    ratios: dict[str, Ratio]
    conditions: Conditions


def interleave(
    functions: Mapping[str, Callable[[], Any]],
    rounds: int = 15,
    reference: str | None = None,
    *,
    threads: int = 1,
    size: tuple[int, int] | None = None,
    min_sample_ms: float = 20.0,
    device: str = "host",
) -> Comparison:
    """Time every function once per round, so that drift of the machine hits all alike.

    A sample repeats its function until `min_sample_ms` have passed. Every other round runs in reverse order. The
    ratios are against `reference` (the first function by default). `threads` and `size` are only written down: setting
    them is the caller's part. Raises `QsearchError` for no functions, an unknown reference or fewer than one round.
    """
    names = list(functions)
    if not names or rounds < 1:
        raise QsearchError("timing needs at least one function and one round")
    reference = names[0] if reference is None else reference
    if reference not in functions:
        raise QsearchError(f"unknown timing reference {reference!r}: known are {', '.join(names)}")
    before, conditions = read_here(), now_conditions(device, threads, size, rounds)
    repeats = {name: _repeats(function, min_sample_ms) for name, function in functions.items()}
    samples: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        for name in names if index % 2 == 0 else reversed(names):
            samples[name].append(_sample_ms(functions[name], repeats[name]))
    ratios = {
        name: Ratio(*median_interval([a / b for a, b in zip(samples[name], samples[reference], strict=True)]))
        for name in names
        if name != reference
    }
    timings = {name: Timing(*median_interval(values), tuple(values)) for name, values in samples.items()}
    after = read_here()
    temperatures, clocks = (before.temperature_c, after.temperature_c), (before.frequency_mhz, after.frequency_mhz)
    conditions = replace(conditions, temperature_c=temperatures, frequency_mhz=clocks)
    return Comparison(timings, reference, ratios, conditions)


def now_conditions(device: str, threads: int, size: tuple[int, int] | None, rounds: int) -> Conditions:
    """The conditions of a measurement that starts now on this machine."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Conditions(device, detect_host().cpu, threads, size, rounds, date, round(load, 2))


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Median of `values` with its distribution-free interval from order statistics.

    With fewer than six values no such interval reaches 95 %; the whole range is given.
    """
    ordered = sorted(values)
    n, k, tail = len(ordered), 0, 0.0
    # Between the k-th smallest and the k-th largest value lies the median, but for 2·P(Binomial(n, ½) < k).
    while 2 * (tail + comb(n, k) / 2**n) <= 1 - confidence:
        tail += comb(n, k) / 2**n
        k += 1
    k = max(k, 1)
    return statistics.median(ordered), ordered[k - 1], ordered[n - k]


def _repeats(function: Callable[[], Any], min_sample_ms: float) -> int:
    function()  # warm-up: caches, lazy allocation, threads
    return max(1, round(min_sample_ms / max(_sample_ms(function, 1), 1e-4)))


def _sample_ms(function: Callable[[], Any], repeats: int) -> float:
    time.sleep(PAUSE_S)
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) * 1e3 / repeats
