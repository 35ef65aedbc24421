"""Calibration: what every site sees on low-resolution images, without any ground truth."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qsearch.allocation import Observer, SiteAllocation
from qsearch.errors import QsearchError
from qsearch.files import write_atomic
from qsearch.images import resize_bicubic, stretched
from qsearch.passes.operators import FusedConv
from qsearch.passes.quantizers import Quantizer, reads_image
from qsearch.passes.rewrite import copy_graph, module_of
from qsearch.quant.basis import find_bases
from qsearch.quant.equalize import ChannelRanges, equalize
from qsearch.quant.grid import Grid, WeightGrid, activation_grid, weight_grid
from qsearch.quant.observers import OBSERVERS, ValueStats, weight_scale
from qsearch.quant.piecewise import piecewise_grid
from qsearch.quant.streams import change_bases

CROP = 96
SAMPLE_SHARE = 64
"""One value in so many enters the histogram; the range is that of all values."""
MIN_SIDE = 16
AREAS, AREA_SIDE = 2, 12


DEFAULT_OBSERVER: Observer = "mse"


@dataclass(frozen=True)
class Calibration:
    """Statistics of every site of one prepared graph; grids of any bits follow without running the network again."""

    graph: GraphModule
    white: float
    stats: dict[str, ValueStats]
    """By site name; sites that read one value share one object. The image has none."""
    bases: Mapping[str, Tensor] = field(default_factory=dict)
    """What the linear values of `graph` were multiplied by (see `streams`), before it was equalized."""
    factors: Mapping[str, Tensor] = field(default_factory=dict)
    """Factor per channel by which the convolutions of `graph` were divided (see `equalize`)."""
    _grids: dict[tuple[int, SiteAllocation], Grid] = field(default_factory=dict)
    _weights: dict[tuple[str, int, Observer], WeightGrid] = field(default_factory=dict)

    def grid(self, site: str, setting: SiteAllocation) -> Grid:
        """The activation grid of `site`; a piecewise one is that of least squared error, whatever the observer."""
        if site not in self.stats:
            return self.image_grid
        stats = self.stats[site]
        key = (id(stats), setting)
        if key not in self._grids:
            if setting.quantizer == "piecewise":
                self._grids[key] = piecewise_grid(stats, setting.bits, setting.inside, setting.ratio, setting.span)
            else:
                observer = setting.observer or DEFAULT_OBSERVER
                self._grids[key] = activation_grid(*OBSERVERS[observer](stats, setting.bits), setting.bits)
        return self._grids[key]

    def weight(self, conv: FusedConv, bits: int, observer: Observer | None = None) -> WeightGrid:
        """The integer weights of `conv`."""
        observer = observer or DEFAULT_OBSERVER
        key = (conv.name, bits, observer)
        if key not in self._weights:
            scale = weight_scale(conv.weight.detach(), bits, observer)
            self._weights[key] = weight_grid(conv.weight.detach(), scale, bits)
        return self._weights[key]

    def save(self, path: Path | str) -> None:
        """Write the statistics as safetensors, atomically; the graph is made again from the model."""
        groups: dict[int, list[str]] = {}
        for site, stats in self.stats.items():
            groups.setdefault(id(stats), []).append(site)
        tensors = {}
        for sites in groups.values():
            stats = self.stats[sites[0]]
            tensors[f"{sites[0]}:range"] = torch.tensor([stats.lo, stats.hi], dtype=torch.float64)
            tensors[f"{sites[0]}:counts"] = torch.from_numpy(stats.counts)
        tensors |= {f"{stream}:basis": basis.contiguous() for stream, basis in self.bases.items()}
        tensors |= {f"{conv}:factor": factor.contiguous() for conv, factor in self.factors.items()}
        readers = json.dumps(list(groups.values()))
        write_atomic(path, save(tensors, metadata={"sites": readers, "white": repr(self.white)}))

    @staticmethod
    def load(path: Path | str, graph: GraphModule) -> "Calibration":
        """Statistics that `save` wrote, for a freshly prepared graph; raises `QsearchError` for another file."""
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata()
                found = {}
                for sites in json.loads(metadata["sites"]):
                    lo, hi = file.get_tensor(f"{sites[0]}:range").tolist()
                    stats = ValueStats.from_counts(lo, hi, file.get_tensor(f"{sites[0]}:counts").numpy())
                    found.update(dict.fromkeys(sites, stats))
                bases, factors = (
                    {key.removesuffix(end): file.get_tensor(key) for key in file.keys() if key.endswith(end)}  # noqa: SIM118
                    for end in (":basis", ":factor")
                )
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise QsearchError(f"{path} holds no calibration: {error}") from error
        return Calibration(
            equalize(change_bases(graph, bases), factors), float(metadata["white"]), found, bases, factors
        )

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
    """Change the bases and equalize the channels of `graph`, run it on one crop of each image (uint8 [H, W, 3]), keep
    what sites see.

    Each crop is seen as it is and in views that also cover pictures which the images happen to lack: of full contrast,
    of edges between black and white, and of saturated colours.
    Raises `QsearchError` without images, for images under 16 pixels, and naming the site of a NaN.
    """
    if not images:
        raise QsearchError("calibration needs at least one low-resolution image; the folder holds none")
    random = np.random.default_rng(seed)
    crops = _crops(images, random)
    seen = [_to_input(view, white) for crop in crops for view in _views(crop, random)]
    bases = find_bases(graph, [_to_input(_middle(crop), white) for crop in crops], seen, seed)
    graph = change_bases(graph, bases)
    steps = 2 * len(seen)
    # One image at a time in channels-last order: several times faster on CPUs than a batch of planes.
    ranges = ChannelRanges(_channels_last(graph))
    for done, image in enumerate(seen):
        with torch.no_grad():
            ranges.run(image)
        if progress:
            progress(done + 1, steps)
    factors = ranges.factors()
    graph = equalize(graph, factors)
    recorder = _Recorder(_channels_last(graph), seed)
    for done, image in enumerate(seen, len(seen)):
        with torch.no_grad():
            recorder.run(image)
        if progress:
            progress(done + 1, steps)
    return Calibration(graph, white, recorder.statistics(), bases, factors)


def _channels_last(graph: GraphModule) -> GraphModule:
    return copy_graph(graph).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _crops(images: Sequence[NDArray[np.uint8]], random: np.random.Generator) -> list[NDArray[np.uint8]]:
    """A random crop of at most `CROP` pixels a side of every image."""
    crops = []
    for image in images:
        height, width = (min(CROP, side) for side in image.shape[:2])
        if min(height, width) < MIN_SIDE:
            raise QsearchError(
                f"a calibration image of {image.shape[1]}x{image.shape[0]} pixels is too small: "
                f"at least {MIN_SIDE}x{MIN_SIDE} are needed"
            )
        top = random.integers(0, image.shape[0] - height + 1)
        left = random.integers(0, image.shape[1] - width + 1)
        crops.append(image[top : top + height, left : left + width])
    return crops


def _middle(crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = crop.shape[:2]
    return crop[height // 4 : height - height // 4, width // 4 : width - width // 4]


def _views(crop: NDArray[np.uint8], random: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    """A crop, its middle with full contrast, and what photographs hardly hold: edges of black and white, as of text,
    and saturated colours.

    Colours run into each other: edges between them would overshoot so far that all else lost half of its steps.
    """
    yield crop
    yield stretched(_middle(crop))
    black_and_white, colours = (255 * random.integers(0, 2, (AREAS, AREAS, n), dtype=np.uint8) for n in (1, 3))
    yield black_and_white.repeat(AREA_SIDE, 0).repeat(AREA_SIDE, 1).repeat(3, 2)
    yield resize_bicubic(colours, AREA_SIDE)


def _to_input(image: NDArray[np.uint8], white: float) -> Tensor:
    pixels = torch.from_numpy(image.astype(np.float32) * (white / 255)).permute(2, 0, 1)[None]
    return pixels.contiguous(memory_format=torch.channels_last)


class _Recorder(Interpreter):
    """Runs the graph and records the range and a sample of every value that a quantizer reads."""

    def __init__(self, graph: GraphModule, seed: int) -> None:
        super().__init__(graph)
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
        flat = value.flatten()
        picked = torch.randint(flat.numel(), (flat.numel() // SAMPLE_SHARE + 1,), generator=self.generator)
        self.samples.setdefault(node, []).append(flat[picked])

    def statistics(self) -> dict[str, ValueStats]:
        """Statistics by site; the sites that read one value share them."""
        found = {}
        for node, sites in self.sites.items():
            stats = ValueStats.of(torch.cat(self.samples[node]).numpy(), *self.ranges[node])
            found.update(dict.fromkeys(sites, stats))
        return found
