"""Ranges as the published method calibrates them: moving averages over batches, and the piecewise grids they give.

Source: Wang et al., "Outlier-aware post-training quantization for image super-resolution", ICCV 2025, algorithm 1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qsearch.allocation import Allocation, SiteAllocation
from qsearch.passes.operators import FusedConv
from qsearch.passes.quantizers import Quantizer, reads_image
from qsearch.passes.rewrite import module_of
from qsearch.quant.calibration import Calibration
from qsearch.quant.crops import Crops
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.grid import Codes, Grid, WeightGrid, activation_grid
from qsearch.quant.twin import Twin

BATCH, CROP, MOMENTUM, INSIDE = 16, 96, 0.9, 0.99
SAMPLE_SHARE = 16
"""One value in so many enters the percentile; minimum and maximum are those of all."""
Percentile = Literal["magnitude", "value"]


@dataclass(frozen=True)
class MovingRange:
    """Lower and upper bound and breakpoint of one activation."""

    lo: float
    hi: float
    breakpoint: float

    def follow(self, new: "MovingRange") -> "MovingRange":
        """A tenth of the way to `new`."""
        old_and_new = zip((self.lo, self.hi, self.breakpoint), (new.lo, new.hi, new.breakpoint), strict=True)
        return MovingRange(*(MOMENTUM * old + (1 - MOMENTUM) * now for old, now in old_and_new))


def moving_ranges(
    calibration: Calibration,
    images: Sequence[NDArray[np.uint8]],
    percentile: Percentile = "magnitude",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, MovingRange]:
    """The range of every activation site after one pass over crops of `images` in batches of 16.

    The breakpoint is the 99th percentile of |x|, or of x.
    """
    crops = Crops(images, calibration.white)
    found: dict[str, MovingRange] = {}
    steps = -(-len(images) // BATCH)
    for step in range(steps):
        count = min(BATCH, len(images) - step * BATCH)
        seen = _Seen(calibration.graph, seed)
        with torch.no_grad():
            for crop in crops.batch((seed, 4, step), count, CROP).split(1):
                seen.run(crop)
        for site, now in seen.ranges(percentile).items():
            found[site] = found[site].follow(now) if site in found else now
        if progress:
            progress(step + 1, steps)
    return found


class _Seen(Interpreter):
    """Keeps what quantizers read of one batch, image by image."""

    def __init__(self, graph: GraphModule, seed: int) -> None:
        super().__init__(graph)
        self.generator = torch.Generator().manual_seed(seed)
        self.seen: dict[str, list[tuple[float, float, Tensor]]] = {}

    def run_node(self, n: Node) -> Tensor:
        value: Tensor = super().run_node(n)
        quantizer = module_of(self.module, n)  # type: ignore[arg-type]
        if isinstance(quantizer, Quantizer) and not reads_image(n.args[0]):  # type: ignore[arg-type]
            flat = value.flatten()
            picked = torch.randint(flat.numel(), (flat.numel() // SAMPLE_SHARE + 1,), generator=self.generator)
            entry = float(value.min()), float(value.max()), flat[picked]
            self.seen.setdefault(quantizer.site, []).append(entry)
        return value

    def ranges(self, percentile: Percentile) -> dict[str, MovingRange]:
        """By site."""
        found = {}
        for site, entries in self.seen.items():
            sample = torch.cat([sample for _, _, sample in entries])
            sample = (sample.abs() if percentile == "magnitude" else sample).sort().values
            at = float(sample[int(INSIDE * (len(sample) - 1))])
            found[site] = MovingRange(min(lo for lo, _, _ in entries), max(hi for _, hi, _ in entries), at)
        return found


def piecewise_of(found: MovingRange, bits: int) -> Grid:
    """The lattice quantizer of a range: half of the codes inside the breakpoint, which both signs share, half outside.

    The outer codes are shared out by how far each side reaches; a side without outliers leaves its own to the other,
    and without any the quantizer is uniform. Zero is a value, and the outer step a multiple of the dense one.
    """
    lo, hi = min(found.lo, 0.0), max(found.hi, 0.0)
    dense, outer = 2 ** (bits - 1), 2 ** (bits - 1)
    zero = dense // 2 if lo < 0 else 0
    steps = dense // 2 if lo < 0 else dense - 1
    # The lattice has no finer steps than a 255th of the range.
    inside = max(found.breakpoint, steps * (hi - lo) / 255)
    above, below = max(hi - inside, 0.0), max(-lo - inside, 0.0) if lo < 0 else 0.0
    scale = float(np.float32(inside / steps))
    if above + below <= 0 or scale <= 0:
        return activation_grid(lo, hi, bits)
    codes_below = round(outer * below / (above + below))
    codes = Codes(codes_below, dense, outer - codes_below, zero)
    wanted = max(above / max(codes.above, 1), below / max(codes.below, 1)) / scale
    return codes.grid(scale, min(max(round(wanted), 1), codes.largest_ratio))


def published_start(
    calibration: Calibration,
    allocation: Allocation,
    ranges: Mapping[str, MovingRange] | None = None,
    per_tensor: bool = True,
) -> FineTuned:
    """The parameters of `allocation` as published: activations by `ranges`, weights by one range per convolution.

    Without `ranges` activations have the grids of calibration, each by its observer. Weights `per_tensor` are rounded
    to nearest and their range is the largest magnitude; else they are those of calibration. Biases are the network's.
    """
    start = Twin(calibration, allocation).finetuned()
    grids = start.grids
    if ranges is not None:
        grids = {site: grid_of(allocation.sites[site], ranges[site]) for site in grids}
    weights = dict(start.weights)
    for node in calibration.graph.graph.nodes:
        conv = module_of(calibration.graph, node)
        if per_tensor and isinstance(conv, FusedConv):
            weights[conv.name] = nearest_weights(conv.weight.detach(), allocation.bits(f"{conv.name}.weight"))
    return FineTuned(start.allocation, start.calibrated, grids, weights, start.biases)


def grid_of(setting: SiteAllocation, found: MovingRange) -> Grid:
    """The grid of a range for the bits and the quantizer of `setting`."""
    if setting.quantizer == "piecewise":
        return piecewise_of(found, setting.bits)
    return activation_grid(found.lo, found.hi, setting.bits)


def nearest_weights(weight: Tensor, bits: int) -> WeightGrid:
    """`weight` rounded to nearest with one range for all, its largest magnitude."""
    top = 2 ** (bits - 1) - 1
    scale = (weight.abs().max() / top).clamp_min(1e-12)
    return WeightGrid(torch.round(weight / scale).to(torch.int8), scale.repeat(len(weight)))
