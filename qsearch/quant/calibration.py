"""Calibration: what every site sees on low-resolution images, without any ground truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qsearch.allocation import Observer
from qsearch.errors import QsearchError
from qsearch.passes.operators import FusedConv
from qsearch.passes.quantizers import Quantizer, reads_image
from qsearch.passes.rewrite import module_of
from qsearch.quant.grid import Grid, WeightGrid, activation_grid, weight_grid
from qsearch.quant.observers import OBSERVERS, ValueStats, weight_scale

CROP = 96
BATCH = 16
SAMPLES_PER_BATCH = 32768
MIN_SIDE = 16


def default_observer(bits: int) -> Observer:
    """MinMax while the steps are fine enough to cover everything, MSE where clipping outliers pays."""
    return "minmax" if bits >= 7 else "mse"


@dataclass(frozen=True)
class Calibration:
    """Statistics of every site of one prepared graph; grids of any bits follow without running the network again."""

    graph: GraphModule
    white: float
    stats: dict[str, ValueStats]
    """By site name; sites that read one value share one object. The image has none."""
    _grids: dict[tuple[int, int, Observer], Grid] = field(default_factory=dict)
    _weights: dict[tuple[str, int, Observer], WeightGrid] = field(default_factory=dict)

    def grid(self, site: str, bits: int, observer: Observer | None = None) -> Grid:
        """The activation grid of `site`."""
        if site not in self.stats:
            return self.image_grid
        observer = observer or default_observer(bits)
        stats = self.stats[site]
        key = (id(stats), bits, observer)
        if key not in self._grids:
            self._grids[key] = activation_grid(*OBSERVERS[observer](stats, bits), bits)
        return self._grids[key]

    def weight(self, conv: FusedConv, bits: int, observer: Observer | None = None) -> WeightGrid:
        """The integer weights of `conv`."""
        observer = observer or default_observer(bits)
        key = (conv.name, bits, observer)
        if key not in self._weights:
            scale = weight_scale(conv.weight.detach(), bits, observer)
            self._weights[key] = weight_grid(conv.weight.detach(), scale, bits)
        return self._weights[key]

    @property
    def image_grid(self) -> Grid:
        """The uint8 image is its own grid: 0 is black, 255 is white."""
        return Grid(float(np.float32(self.white / 255)), 0, 0, 255)


def calibrate(
    graph: GraphModule,
    images: Sequence[NDArray[np.uint8]],
    white: float,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Run `graph` on one crop of each image (uint8 [H, W, 3]) and keep the statistics of every site.

    Each crop is seen as it is and with its contrast stretched to full black and white, so that the range also covers
    bright and dark pictures that the images happen to lack; only the crops as they are enter the histogram.
    Raises `QsearchError` without images, for images under 16 pixels, and naming the site of a NaN.
    """
    if not images:
        raise QsearchError("calibration needs at least one low-resolution image; the folder holds none")
    batches = _batches(images, white, np.random.default_rng(seed))
    recorder = _Recorder(graph, seed)
    for done, (natural, stretched) in enumerate(batches):
        with torch.no_grad():
            recorder.sampling = True
            recorder.run(natural)
            recorder.sampling = False
            recorder.run(stretched)
        if progress:
            progress(done + 1, len(batches))
    return Calibration(graph, white, recorder.statistics())


def _batches(
    images: Sequence[NDArray[np.uint8]], white: float, random: np.random.Generator
) -> list[tuple[Tensor, Tensor]]:
    height = min(CROP, *(image.shape[0] for image in images))
    width = min(CROP, *(image.shape[1] for image in images))
    if min(height, width) < MIN_SIDE:
        raise QsearchError(
            f"a calibration image has a side of {min(height, width)} pixels; at least {MIN_SIDE} are needed"
        )
    crops = []
    for image in images:
        top = random.integers(0, image.shape[0] - height + 1)
        left = random.integers(0, image.shape[1] - width + 1)
        crops.append(image[top : top + height, left : left + width])
    batches = []
    for start in range(0, len(crops), BATCH):
        block = np.stack(crops[start : start + BATCH]).astype(np.float32)
        low = block.min(axis=(1, 2, 3), keepdims=True)
        high = block.max(axis=(1, 2, 3), keepdims=True)
        stretched = np.rint((block - low) * (255 / np.maximum(high - low, 1)))
        to_input = lambda x: torch.from_numpy(x).permute(0, 3, 1, 2) * (white / 255)  # noqa: E731
        batches.append((to_input(block), to_input(stretched)))
    return batches


class _Recorder(Interpreter):
    """Runs the graph and records the range and a sample of every value that a quantizer reads."""

    def __init__(self, graph: GraphModule, seed: int) -> None:
        super().__init__(graph)
        self.sampling = True
        self.generator = torch.Generator().manual_seed(seed)
        self.ranges: dict[Node, tuple[float, float]] = {}
        self.samples: dict[Node, list[Tensor]] = {}
        self.sites: dict[Node, list[str]] = {}
        for node in graph.graph.nodes:
            quantizer = module_of(graph, node)
            if isinstance(quantizer, Quantizer) and not reads_image(node.args[0]):
                self.sites.setdefault(node.args[0], []).append(quantizer.site)

    def run_node(self, n: Node) -> Tensor:
        value: Tensor = super().run_node(n)
        if n in self.sites:
            self._record(n, value)
        return value

    def _record(self, node: Node, value: Tensor) -> None:
        lo, hi = float(value.min()), float(value.max())
        if not np.isfinite(lo + hi):
            raise QsearchError(
                f"site {self.sites[node][0]}: the float network gives NaN or infinity on the calibration images"
            )
        old = self.ranges.get(node, (lo, hi))
        self.ranges[node] = (min(lo, old[0]), max(hi, old[1]))
        if self.sampling:
            flat = value.flatten()
            picked = torch.randint(flat.numel(), (SAMPLES_PER_BATCH,), generator=self.generator)
            self.samples.setdefault(node, []).append(flat[picked])

    def statistics(self) -> dict[str, ValueStats]:
        """Statistics by site; the sites that read one value share them."""
        found = {}
        for node, sites in self.sites.items():
            stats = ValueStats.of(torch.cat(self.samples[node]).numpy(), *self.ranges[node])
            found.update(dict.fromkeys(sites, stats))
        return found
