"""Uniform or piecewise, site by site: whichever has the smaller squared error on what calibration saw."""

import numpy as np

from qsearch.allocation import MIN_PIECEWISE_BITS, Allocation, QuantizerKind, SiteAllocation
from qsearch.passes.quantizers import sites
from qsearch.quant.calibration import Calibration
from qsearch.quant.grid import Grid
from qsearch.quant.observers import ValueStats, squared_errors
from qsearch.quant.piecewise import inside_share

FULL_BITS = 8
"""With as many codes as the lattice has values nothing is left for coarser steps to gain."""


def with_quantizers(calibration: Calibration, allocation: Allocation, kind: QuantizerKind | None = None) -> Allocation:
    """`allocation` with `kind` at every activation that may have it; None chooses by squared error at each."""
    chosen = dict(allocation.sites)
    for site in sites(calibration.graph):
        setting = chosen[site.name]
        if site.kind == "weight" or len(site.choices) == 1 or not MIN_PIECEWISE_BITS <= setting.bits < FULL_BITS:
            continue
        chosen[site.name] = setting.model_copy(update={"quantizer": kind or _better(calibration, site.name, setting)})
    return Allocation(sites=chosen)


def _better(calibration: Calibration, site: str, setting: SiteAllocation) -> QuantizerKind:
    errors: dict[QuantizerKind, float] = {}
    for kind in ("uniform", "piecewise"):
        grid = calibration.grid(site, setting.model_copy(update={"quantizer": kind}))
        errors[kind] = squared_error(calibration.stats[site], grid)
    return min(errors, key=lambda kind: errors[kind])


def describe(calibration: Calibration, site: str, setting: SiteAllocation) -> tuple[float, float, int]:
    """What calibration says of a site's quantizer: mean squared error, share of values inside, and step ratio."""
    grid, stats = calibration.grid(site, setting), calibration.stats[site]
    return squared_error(stats, grid), inside_share(stats, grid), grid.pieces[2] if grid.pieces else 1


def squared_error(stats: ValueStats, grid: Grid) -> float:
    """Mean squared error of the histogram of `stats` on `grid`."""
    return float(squared_errors(stats, grid, np.array([grid.scale]))[0] / max(stats.counts.sum(), 1))
