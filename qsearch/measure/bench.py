"""Timing an artefact by rounds of its own `--bench`, against a reference where one is given, until it is known well."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qsearch.errors import QsearchError
from qsearch.measure.timers import Conditions, Ratio, median_interval

CI_LIMIT = 0.02
ROUND_MS = 100.0
_LOOKS = (8, 16, 32, 64, 128, 256, 512, 1024)
"""Rounds after which the interval is looked at: seldom, for whoever stops at the first narrow one fools himself."""

RunBench = Callable[[int], dict[str, Any]]
"""Run the executable's `--bench` with that many runs and return the object it prints."""


@dataclass(frozen=True)
class BenchResult:
    """Latency of a whole network on a device, from uint8 image to uint8 image."""

    latency_ms: float
    """Median of the rounds; a round is the median of the runs of one process."""
    low_ms: float
    high_ms: float
    """Bounds of the 95 % confidence interval of the median."""
    p10_ms: float
    p90_ms: float
    min_ms: float
    """The fastest single run."""
    peak_rss_bytes: int
    ratio: Ratio | None
    """The time over that of the reference in the same round, where there was one."""
    converged: bool
    """Whether the interval (of the ratio where there is one) is within `ci_limit` of its median to each side."""
    ci_limit: float
    conditions: Conditions


@dataclass(frozen=True)
class Rounds:
    """What interleaved rounds gave: the samples of each artefact, the fastest run and the peak memory of the first."""

    samples_ms: list[float]
    reference_ms: list[float]
    min_ms: float
    peak_rss_bytes: int

    @property
    def ratio(self) -> Ratio | None:
        """Paired round by round; None without a reference."""
        if not self.reference_ms:
            return None
        return Ratio(*median_interval([a / b for a, b in zip(self.samples_ms, self.reference_ms, strict=True)]))

    def converged(self, limit: float) -> bool:
        """Whether the interval of the ratio, or of the latency where there is none, is within `limit`."""
        ratio = self.ratio
        interval = (ratio.median, ratio.low, ratio.high) if ratio else median_interval(self.samples_ms)
        enough = len(self.samples_ms) >= _LOOKS[0]
        return enough and interval_width(*interval) <= limit


def interval_width(median: float, low: float, high: float) -> float:
    """The wider side of an interval, as a part of its median."""
    return max(high - median, median - low) / median


def run_rounds(candidate: RunBench, reference: RunBench | None, rounds: int, ci_limit: float, seconds: float) -> Rounds:
    """Alternate the artefacts, in reverse order every other round, until the interval is narrow.

    Ends after `rounds`, or after the round in which `seconds` have passed. Raises `QsearchError` for nonsense.
    """
    if rounds < 1 or not 0 < ci_limit < 1 or seconds <= 0:
        raise QsearchError("timing needs at least one round, a time, and an interval between 0 and 1")
    benches = [candidate] + ([reference] if reference else [])
    runs = [_runs_per_round(bench) for bench in benches]
    samples: list[list[float]] = [[] for _ in benches]
    fastest, peak, began = math.inf, 0, time.monotonic()
    result = Rounds(samples[0], samples[1] if reference else [], fastest, peak)
    for done in range(rounds):
        for i in range(len(benches)) if done % 2 == 0 else reversed(range(len(benches))):
            found = benches[i](runs[i])
            samples[i].append(float(found["latency_ms"]))
            if i == 0:
                fastest, peak = min(fastest, found["min_ms"]), max(peak, found["peak_rss_bytes"])
        result = Rounds(samples[0], samples[1] if reference else [], fastest, peak)
        if time.monotonic() - began > seconds or (done + 1 in _LOOKS and result.converged(ci_limit)):
            break
    return result


def summarize(rounds: Rounds, ci_limit: float, conditions: Conditions) -> BenchResult:
    """The figures of finished rounds."""
    median, low, high = median_interval(rounds.samples_ms)
    ordered = sorted(rounds.samples_ms)
    p10, p90 = (ordered[(len(ordered) - 1) * p // 100] for p in (10, 90))
    return BenchResult(
        latency_ms=round(median, 4),
        low_ms=round(low, 4),
        high_ms=round(high, 4),
        p10_ms=p10,
        p90_ms=p90,
        min_ms=rounds.min_ms,
        peak_rss_bytes=rounds.peak_rss_bytes,
        ratio=rounds.ratio,
        converged=rounds.converged(ci_limit),
        ci_limit=ci_limit,
        conditions=conditions,
    )


def parse_bench(stdout: bytes, name: str) -> dict[str, Any]:
    """The object that `--bench` printed last; `QsearchError` naming the device where it is none."""
    lines: Sequence[bytes] = stdout.splitlines()
    try:
        found = json.loads(lines[-1])
        return {key: found[key] + 0 for key in ("latency_ms", "min_ms", "peak_rss_bytes")}
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise QsearchError(f"device {name} gave no figures for --bench") from error


def parse_profile(stdout: bytes, name: str) -> dict[str, float]:
    """Milliseconds of every step that `--profile` printed; `QsearchError` naming the device where there are none."""
    try:
        steps = json.loads(stdout.splitlines()[-1])["steps"]
        return {str(step["name"]): float(step["latency_ms"]) for step in steps}
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise QsearchError(f"device {name} gave no figures for --profile") from error


def _runs_per_round(bench: RunBench) -> int:
    """So many runs that a round lasts about `ROUND_MS`; also the warm-up of the files."""
    once = max(float(bench(1)["latency_ms"]), 1e-3)
    return max(1, min(100, round(ROUND_MS / once)))
