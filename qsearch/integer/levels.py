"""One integer program of several allocations, among which every pixel of the image has its own.

A pixel's accumulators are those of its level: its weights, and inputs on its grids. What they give is written on the
grids of all levels, so that a level reads its neighbours' pixels as if they were its own. Nothing is computed twice,
no border is artificial, and no value leaves the span of its grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule, Node

from qsearch.allocation import Allocation
from qsearch.errors import QsearchError
from qsearch.integer import ops
from qsearch.integer.lowering import Lowering
from qsearch.integer.storage import LEVELS
from qsearch.passes.operators import FusedConv
from qsearch.passes.quantizers import sites
from qsearch.passes.rewrite import module_of
from qsearch.quant.calibration import Calibration
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.grid import Grid


@dataclass(frozen=True)
class Version:
    """One allocation of a network, with its own ranges and trained parameters if any."""

    calibration: Calibration
    allocation: Allocation
    finetuned: FineTuned | None = None


def lower_levels(versions: Sequence[Version]) -> GraphModule:
    """The program of an image whose pixels have levels: uint8 [N, 3, H, W] and levels uint8 [N, 1, H, W] in.

    Where all pixels have one level it gives the bytes of that allocation's own program. Raises `QsearchError` as
    `lower` does, without versions, for versions of different networks, and for networks with strides.
    """
    if not versions:
        raise QsearchError("patches need at least one allocation")
    source = versions[0].calibration.graph
    if any(version.calibration.graph is not source for version in versions):
        raise QsearchError("the levels of one image must be of one calibrated network")
    for node in source.graph.nodes:
        module = module_of(source, node)
        if isinstance(module, FusedConv):
            _check_size(module)
    for version in versions:
        version.allocation.check(sites(source))
        if version.finetuned is not None:
            version.finetuned.check(source, version.allocation)
    return _Levels(versions).run()


def _check_size(conv: FusedConv) -> None:
    same = all(2 * padding == size - 1 for padding, size in zip(conv.padding, conv.weight.shape[2:], strict=True))
    if conv.stride != 1 or not same:
        raise QsearchError(
            f"convolution {conv.name} changes the image's size: patches that read their neighbours need padded "
            "convolutions without strides"
        )


class _Level(Lowering):
    """One level; what convolutions give is that of all levels."""

    def __init__(self, levels: "_Levels", index: int, version: Version) -> None:
        super().__init__(version.calibration, version.allocation, version.finetuned, f"level{index}_")
        self.levels = levels

    def value(self, node: Node, conv: FusedConv, grid: Grid) -> Node:
        return self.levels.value(node, conv, grid)


class _Levels:
    """All levels in one graph, one convolution of all of them after the other."""

    def __init__(self, versions: Sequence[Version]) -> None:
        self.levels = [_Level(self, index, version) for index, version in enumerate(versions)]
        first = self.levels[0]
        for level in self.levels[1:]:
            level.root, level.graph = first.root, first.graph
        self.first, self.graph = first, first.graph
        self.values: dict[tuple[Node, tuple[Node, ...]], Node] = {}

    def run(self) -> GraphModule:
        for node in self.first.source.graph.nodes:
            module = module_of(self.first.source, node)
            if node.op == "placeholder":
                self.first.take_image()
                self.map = self.graph.placeholder("levels")
                self.map.meta[LEVELS] = len(self.levels)
                for level in self.levels:
                    level.image = self.first.image
            elif isinstance(module, FusedConv):
                for level in self.levels:
                    level.convolution(node, module)
            elif node.op == "output":
                self.graph.output(self.first.read(node.args[0], self.first.calibration.image_grid).node)
        scales: dict[str, Tensor] = {}
        for level in self.levels:
            scales |= level.weight_scales
        return self.first.finished(scales)

    def value(self, node: Node, conv: FusedConv, grid: Grid) -> Node:
        """What a convolution gives on `grid`, each pixel from its own level."""
        parts = [level.requantize(node, conv, grid) for level in self.levels]
        key = node, tuple(parts)
        if key not in self.values:
            self.values[key] = self.graph.call_function(ops.by_level, (parts, self.map))
        return self.values[key]
