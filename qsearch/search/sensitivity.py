"""How much every site alone adds to the picture's squared error: measured once, kept in an append-only file."""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from qsearch.allocation import Allocation
from qsearch.errors import QsearchError
from qsearch.files import append_line, drop_torn_tail
from qsearch.search.noise import squared_error
from qsearch.search.space import Space

Measure = Callable[[Allocation], dict[str, float]]
"""The expensive metrics of an allocation: psnr_y_db and, where wanted, latency_ms."""

PASSES = (4, 2, 6, 3, 5, 7)
"""Bits in the order in which they are measured: the middle first, then the ends; the rest is interpolated."""


@dataclass(frozen=True)
class Measurement:
    """The base allocation with one site at other bits; `site` is empty for the base itself."""

    site: str
    bits: int
    psnr_y_db: float
    seconds: float


@dataclass(frozen=True)
class Sensitivity:
    """What was measured, the base first."""

    measurements: tuple[Measurement, ...]

    @property
    def base_error(self) -> float:
        """Squared error of the base allocation."""
        return float(squared_error(self.measurements[0].psnr_y_db))

    @property
    def seconds(self) -> float:
        """Time that the measurements took."""
        return sum(measurement.seconds for measurement in self.measurements)

    def added(self) -> dict[tuple[str, int], float]:
        """(site, bits) -> squared error that they add to the base's; rounding luck can make it slightly negative."""
        return {(m.site, m.bits): float(squared_error(m.psnr_y_db)) - self.base_error for m in self.measurements[1:]}


def plan(space: Space, limit: int | None) -> list[tuple[str, int]]:
    """The (site, bits) to measure: whole passes over the sites, at least one, no more than `limit` measurements."""
    wanted: list[tuple[str, int]] = []
    for bits in PASSES:
        sites = [s.name for s in space.sites if bits in s.choices and bits != space.base.bits(s.name)]
        if wanted and limit is not None and len(wanted) + len(sites) > limit:
            break
        wanted += [(site, bits) for site in sites]
    return wanted


def measure_sensitivity(
    path: Path,
    space: Space,
    quality: Measure,
    wanted: Iterable[tuple[str, int]],
    stop: Callable[[int], bool] = lambda done: False,
    advance: Callable[[int], None] = lambda done: None,
) -> Sensitivity:
    """Measure the base and then every (site, bits) of `wanted`, each written to `path` before the next begins.

    What `path` already holds is not measured again. `stop(done)` is asked before each measurement, `advance(done)` is
    told after each.
    """
    known = {(m.site, m.bits): m for m in read_sensitivity(path).measurements}
    drop_torn_tail(path)
    for done, (site, bits) in enumerate([("", 0), *wanted]):
        if done and stop(done):
            break
        if (site, bits) not in known:
            known[site, bits] = _measure_one(path, space, quality, site, bits)
        advance(done)
    return Sensitivity(tuple(known.values()))


def read_sensitivity(path: Path) -> Sensitivity:
    """What a search has measured so far; empty where the file is absent."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    try:
        return Sensitivity(tuple(Measurement(**json.loads(line)) for line in lines))
    except (ValueError, TypeError) as error:
        raise QsearchError(f"{path} is damaged ({error}): remove it to measure the sensitivities again") from error


def _measure_one(path: Path, space: Space, quality: Measure, site: str, bits: int) -> Measurement:
    started = time.monotonic()
    psnr = float(quality(space.base.replace({site: bits} if site else {}))["psnr_y_db"])
    if not math.isfinite(psnr):
        raise QsearchError(f"PSNR is {psnr} with {bits} bits at {site or 'the base allocation'}: the network is broken")
    measurement = Measurement(site, bits, psnr, round(time.monotonic() - started, 3))
    append_line(path, json.dumps(asdict(measurement)) + "\n", flush=True)
    return measurement
