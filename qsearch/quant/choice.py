"""Uniform or piecewise, site by site: whichever has the smaller squared error on what calibration saw."""

import numpy as np
import torch

from qsearch.allocation import MIN_PIECEWISE_BITS, Allocation, QuantizerKind, SiteAllocation
from qsearch.integer.ops import snap
from qsearch.passes.quantizers import sites
from qsearch.quant.calibration import Calibration
from qsearch.quant.grid import Grid
from qsearch.quant.observers import ValueStats

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


def squared_error(stats: ValueStats, grid: Grid) -> float:
    """Mean squared error of the histogram of `stats` on `grid`."""
    steps = np.rint(stats.centers / grid.scale) + grid.zero_point
    codes = torch.from_numpy(steps).clamp(grid.lo, grid.hi)
    if grid.pieces is not None:
        codes = snap(codes, torch.tensor(grid.pieces))
    shown = (codes.numpy() - grid.zero_point) * grid.scale
    return float(((shown - stats.centers) ** 2) @ stats.counts / max(stats.counts.sum(), 1))
