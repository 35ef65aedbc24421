"""From a calibrated graph and an allocation to the integer program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from qsearch.allocation import Allocation
from qsearch.errors import QsearchError
from qsearch.integer import ops
from qsearch.passes.operators import Concat, FusedConv, RepeatChannels
from qsearch.passes.quantizers import Quantizer, sites
from qsearch.passes.rewrite import module_of
from qsearch.quant.calibration import Calibration
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.grid import Grid, WeightGrid

ACCUMULATOR_LIMIT = 2**30
MAX_SHIFT = 15
SKIP_PRECISION = 2**16
"""Smallest integer factor of a skip operand that lowering aims at: its rounding then moves no output value."""
BIAS_PRECISION = 2**8
"""Accumulator units per output step that lowering aims at, so that rounding the bias moves no output value."""


def lower(
    calibration: Calibration,
    allocation: Allocation,
    finetuned: FineTuned | None = None,
    taps: Mapping[str, Grid] | None = None,
) -> GraphModule:
    """The integer program of `allocation`: uint8 image [N, 3, H, W] in, uint8 image [N, 3, H·u, W·u] out.

    With `taps` it gives a tuple: the image, then for each tap (a convolution's node in the calibrated graph, by its
    target) what that convolution gives, on the tap's grid. The bytes of the image do not depend on taps.

    Grids, weights and biases are those of `finetuned` where given. Raises `QsearchError` when the allocation does not
    fit the network or `finetuned`, or naming the convolution whose accumulator could leave int32.
    """
    allocation.check(sites(calibration.graph))
    if finetuned is not None:
        finetuned.check(calibration.graph, allocation)
    return Lowering(calibration, allocation, finetuned).run(taps)


def layer_name(conv: str) -> str:
    """What a convolution is called in the integer program, in the steps of a plan, and in the names of parameters."""
    return conv.replace(".", "_")


@dataclass
class _Operand:
    """A quantized value as a reader sees it."""

    node: Node
    grid: Grid


class Lowering:
    """The lowering of one allocation; use `lower`. `prefix` begins the names of its parameters and convolutions."""

    def __init__(
        self, calibration: Calibration, allocation: Allocation, finetuned: FineTuned | None, prefix: str = ""
    ) -> None:
        self.calibration = calibration
        self.allocation = allocation
        self.finetuned = finetuned
        self.prefix = prefix
        self.source = calibration.graph
        self.root = nn.Module()
        self.graph = Graph()
        self.accumulators: dict[Node, tuple[Node, NDArray[np.float32], NDArray[np.int64]]] = {}
        self.weight_scales: dict[str, Tensor] = {}
        self.quantized: dict[tuple[Node, Grid], Node] = {}

    def run(self, taps: Mapping[str, Grid] | None) -> GraphModule:
        """The program."""
        for node in self.source.graph.nodes:
            module = module_of(self.source, node)
            if node.op == "placeholder":
                self.take_image()
            elif isinstance(module, FusedConv):
                self.convolution(node, module)
            elif node.op == "output":
                image = self.read(node.args[0], self.calibration.image_grid).node
                self.graph.output((image, *self._tapped(taps)) if taps is not None else image)
        return self.finished(self.weight_scales)

    def take_image(self) -> None:
        """The input."""
        self.image = self.graph.placeholder("image")
        self.image.meta.update(scale=self.calibration.image_grid.scale, zero_point=0)

    def finished(self, weight_scales: Mapping[str, Tensor]) -> GraphModule:
        """The program of the graph, which is complete."""
        self.graph.eliminate_dead_code()
        self.graph.lint()
        program = GraphModule(self.root, self.graph)
        for name, scale in weight_scales.items():
            program.register_buffer(name, scale)
        return program

    def _tapped(self, taps: Mapping[str, Grid]) -> list[Node]:
        convolutions = {str(node.target): node for node in self.accumulators}
        for target in taps:
            if target not in convolutions:
                raise QsearchError(f"the network has no convolution {target!r} whose values could be given")
        found = []
        for target, grid in taps.items():
            conv = module_of(self.source, convolutions[target])
            assert isinstance(conv, FusedConv)
            found.append(self.requantize(convolutions[target], conv, grid))
        return found

    def _layer_name(self, conv: FusedConv) -> str:
        return self.prefix + layer_name(conv.name)

    def _parameter(self, conv: FusedConv, name: str, value: Tensor | NDArray[np.generic]) -> Node:
        """A buffer of the program, named after the convolution it belongs to."""
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        attribute = f"{self._layer_name(conv)}_{name}"
        self.root.register_buffer(attribute, tensor)
        return self.graph.get_attr(attribute)

    def _site_operand(self, quantizer_node: Node) -> _Operand:
        """The operand behind a quantizer node of the source graph."""
        quantizer = module_of(self.source, quantizer_node)
        assert isinstance(quantizer, Quantizer)
        return self.read(quantizer_node.args[0], self._grid(quantizer.site))

    def _grid(self, site: str) -> Grid:
        if self.finetuned is not None and site in self.finetuned.grids:
            return self.finetuned.grids[site]
        return self.calibration.grid(site, self.allocation.sites[site])

    def _weight(self, conv: FusedConv) -> tuple[WeightGrid, NDArray[np.float64]]:
        """The integer weights and the bias."""
        if self.finetuned is not None:
            return self.finetuned.weights[conv.name], self.finetuned.biases[conv.name].double().numpy()
        site = self.allocation.sites[f"{conv.name}.weight"]
        return self.calibration.weight(conv, site.bits, site.observer), conv.bias.detach().double().numpy()

    def read(self, node: object, grid: Grid) -> _Operand:
        """The value of `node` on `grid`: requantized once per distinct grid, index maps applied behind."""
        assert isinstance(node, Node)
        if node.op == "placeholder":
            return _Operand(self.image, self.calibration.image_grid)
        module = module_of(self.source, node)
        if isinstance(module, FusedConv):
            return _Operand(self.value(node, module, grid), grid)
        if isinstance(module, Concat):
            return _Operand(self._joined([self.read(operand, grid).node for operand in node.args]), grid)
        inner = self.read(node.args[0], grid)
        if isinstance(module, nn.PixelShuffle):
            return self._map(ops.pixel_shuffle, inner, module.upscale_factor)
        if isinstance(module, RepeatChannels):
            return self._map(ops.repeat_channels, inner, module.n)
        raise QsearchError(f"node {node.name!r}: {type(module).__name__} has no integer form")

    def _joined(self, operands: list[Node]) -> Node:
        for user in operands[0].users:
            if user.target is ops.concat and user.args[0] == operands:
                return user
        return self.graph.call_function(ops.concat, (operands,))

    def _map(self, operation: Callable[..., Tensor], inner: _Operand, factor: int) -> _Operand:
        for user in inner.node.users:
            if user.target is operation and user.args[1] == factor:
                return _Operand(user, inner.grid)
        return _Operand(self.graph.call_function(operation, (inner.node, factor)), inner.grid)

    def convolution(self, node: Node, conv: FusedConv) -> None:
        """The accumulator of a convolution with its skip operands."""
        x, *skips = [self._site_operand(argument) for argument in node.args]  # type: ignore[arg-type]
        weight, bias = self._weight(conv)
        product = np.float32(x.grid.scale) * weight.scale.numpy()
        skip_scales = [skip.grid.scale * gain.numpy() for skip, gain in zip(skips, conv.skip_gains, strict=True)]
        shift = self._shift(node, conv, weight, product, bias, skip_scales)
        unit = product.astype(np.float64) / 2.0**shift
        ks = [np.rint(scale / unit).astype(np.int64) for scale in skip_scales]
        sums = weight.values.to(torch.int64).sum((1, 2, 3)).numpy()
        folded = np.rint(bias / unit).astype(np.int64) - (x.grid.zero_point * sums << shift)
        folded -= sum((k * skip.grid.zero_point for k, skip in zip(ks, skips, strict=True)), np.int64(0))
        pad = np.rint(conv.pad_value.numpy() / np.float32(x.grid.scale)) + x.grid.zero_point
        acc = self.graph.create_node(
            "call_function",
            ops.conv_acc,
            (
                x.node,
                self._parameter(conv, "weight", weight.values),
                self._parameter(conv, "bias", folded.astype(np.int32)),
                self._parameter(conv, "shift", shift.astype(np.int32)),
                self._parameter(conv, "pad", np.clip(pad, 0, 255).astype(np.uint8)),
            ),
            {"stride": conv.stride, "padding": conv.padding, "groups": conv.groups},
            name=self._layer_name(conv),
        )
        acc.meta["weight_scale"] = f"{self._layer_name(conv)}_weight_scale"
        self.weight_scales[acc.meta["weight_scale"]] = weight.scale
        for index, (k, skip) in enumerate(zip(ks, skips, strict=True)):
            acc = self.graph.call_function(
                ops.add_skip, (acc, skip.node, self._parameter(conv, f"k{index}", k.astype(np.int32)))
            )
        self.accumulators[node] = (acc, product, shift)

    def _shift(
        self,
        node: Node,
        conv: FusedConv,
        weight: WeightGrid,
        product: NDArray[np.float32],
        bias: NDArray[np.float64],
        skip_scales: list[NDArray[np.float64]],
    ) -> NDArray[np.int64]:
        """The least shift per channel that makes skip factors and bias precise, within the accumulator's limit."""
        unit = product.astype(np.float64)
        finest = min(self._reader_grids(node), key=lambda grid: grid.scale).scale
        wanted = np.log2(np.maximum(unit * BIAS_PRECISION / finest, 1))
        for scale in skip_scales:
            wanted = np.maximum(wanted, np.log2(np.maximum(SKIP_PRECISION * unit / scale, 1)))
        magnitude = 255.0 * weight.values.abs().double().sum((1, 2, 3)).numpy() + np.abs(bias) / unit
        magnitude += sum((255.0 * scale / unit for scale in skip_scales), np.float64(0))
        room = np.floor(np.log2(ACCUMULATOR_LIMIT / np.maximum(magnitude, 1)))
        if (room < 0).any():
            raise QsearchError(
                f"convolution {conv.name}: its sums could leave int32; use fewer bits for {conv.name}.weight"
            )
        return np.minimum(np.minimum(np.ceil(wanted), room), MAX_SHIFT).astype(np.int64)

    def _reader_grids(self, node: Node) -> list[Grid]:
        """The grids of everything that reads the value of a convolution, through index maps."""
        grids: list[Grid] = []
        for user in node.users:
            module = module_of(self.source, user)
            if isinstance(module, Quantizer):
                grids.append(self._grid(module.site))
            elif user.op == "output":
                grids.append(self.calibration.image_grid)
            else:
                grids.extend(self._reader_grids(user))
        return grids

    def value(self, node: Node, conv: FusedConv, grid: Grid) -> Node:
        """What a convolution gives to readers of `grid`."""
        return self.requantize(node, conv, grid)

    def requantize(self, node: Node, conv: FusedConv, grid: Grid) -> Node:
        """The accumulator of a convolution on `grid`."""
        acc, product, shift = self.accumulators[node]
        if conv.activation == "relu":
            grid = grid.clipped(0.0, None)
        elif conv.activation == "clip":
            grid = grid.clipped(*conv.clip)
        if (node, grid) not in self.quantized:
            index = sum(1 for key in self.quantized if key[0] is node)
            m = (product / np.float32(grid.scale) / (2.0**shift).astype(np.float32)).astype(np.float32)
            m_neg = m * conv.slope.numpy().astype(np.float32) if conv.activation == "prelu" else m
            bounds = np.array(grid.bounds, dtype=np.int32)
            self.quantized[node, grid] = self.graph.call_function(
                ops.requantize,
                (
                    acc,
                    self._parameter(conv, f"m{index}", m),
                    self._parameter(conv, f"m_neg{index}", m_neg.astype(np.float32)),
                    self._parameter(conv, f"bounds{index}", bounds),
                ),
                {"prelu": conv.activation == "prelu"},
            )
            self.quantized[node, grid].meta.update(scale=grid.scale, zero_point=grid.zero_point)
        return self.quantized[node, grid]
