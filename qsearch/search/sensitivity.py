"""How much every site alone adds to the picture's squared error: measured once, kept in an append-only file."""

import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from qsearch.allocation import Allocation, QuantizerKind
from qsearch.errors import QsearchError
from qsearch.files import append_line, drop_torn_tail
from qsearch.search.forms import Form, code_of, form_of
from qsearch.search.noise import squared_error
from qsearch.search.space import Space

Measure = Callable[[Allocation], dict[str, float]]
"""The expensive metrics of an allocation: psnr_y_db and, where wanted, latency_ms."""

PASSES = (4, code_of(Form(4, "piecewise")), 2, 6, 3, code_of(Form(3, "piecewise")), 5, 7)
"""Codes in the order in which they are measured: the middle first, then the ends; the rest is interpolated."""


@dataclass(frozen=True)
class Measurement:
    """The base allocation with one site in another form; `site` is empty for the base itself."""

    site: str
    bits: int
    psnr_y_db: float
    seconds: float
    quantizer: QuantizerKind = "uniform"

    @property
    def code(self) -> int:
        """The code of the form."""
        return code_of(Form(self.bits, self.quantizer))


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
        """(site, code) -> squared error that they add to the base's; rounding luck can make it slightly negative."""
        return {(m.site, m.code): float(squared_error(m.psnr_y_db)) - self.base_error for m in self.measurements[1:]}


def plan(space: Space, limit: int | None) -> list[tuple[str, int]]:
    """The (site, code) to measure: whole passes over the sites, at least one, no more than `limit` measurements."""
    wanted: list[tuple[str, int]] = []
    for code in PASSES:
        own = dict(zip(space.names, space.vector(space.base).tolist(), strict=True))
        sites = [s for s, codes in zip(space.names, space.choices, strict=True) if code in codes and code != own[s]]
        if wanted and limit is not None and len(wanted) + len(sites) > limit:
            break
        wanted += [(site, code) for site in sites]
    return wanted


def measure_sensitivity(
    path: Path,
    space: Space,
    quality: Measure,
    wanted: Iterable[tuple[str, int]],
    stop: Callable[[int], bool] = lambda done: False,
    advance: Callable[[int], None] = lambda done: None,
) -> Sensitivity:
    """Measure the base and then every (site, code) of `wanted`, each written to `path` before the next begins.

    What `path` already holds is not measured again. `stop(done)` is asked before each measurement, `advance(done)` is
    told after each.
    """
    known = {(m.site, m.code if m.site else 0): m for m in read_sensitivity(path).measurements}
    drop_torn_tail(path)
    for done, (site, code) in enumerate([("", 0), *wanted]):
        if done and stop(done):
            break
        if (site, code) not in known:
            known[site, code] = _measure_one(path, space, quality, site, code)
        advance(done)
    return Sensitivity(tuple(known.values()))


def read_sensitivity(path: Path) -> Sensitivity:
    """What a search has measured so far; empty where the file is absent."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    try:
        return Sensitivity(tuple(Measurement(**json.loads(line)) for line in lines))
    except (ValueError, TypeError) as error:
        raise QsearchError(f"{path} is damaged ({error}): remove it to measure the sensitivities again") from error


def _measure_one(path: Path, space: Space, quality: Measure, site: str, code: int) -> Measurement:
    started = time.monotonic()
    psnr = float(quality(space.with_code(site, code) if site else space.base)["psnr_y_db"])
    if not math.isfinite(psnr):
        what = f"with {form_of(code)} at {site}" if site else "with the base allocation"
        raise QsearchError(f"PSNR is {psnr} {what}: the network is broken")
    form = form_of(code) if site else Form(0)
    measurement = Measurement(site, form.bits, psnr, round(time.monotonic() - started, 3), form.quantizer)
    line = {key: value for key, value in asdict(measurement).items() if value != "uniform"}
    append_line(path, json.dumps(line) + "\n", flush=True)
    return measurement
