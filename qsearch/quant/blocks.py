"""Reconstruction block by block: each block alone learns to give the float network's values from what it really reads.

An iteration costs one block instead of the network, so that rounding gets many of them. Source: Li et al., "BRECQ",
ICLR 2021, with rounding learned by straight-through gradients instead of a penalty.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from qsearch.passes.operators import FusedConv
from qsearch.passes.rewrite import module_of
from qsearch.quant.finetune_settings import FineTuneSettings
from qsearch.quant.lattice import LatticeQuantizer
from qsearch.quant.twin import Group, Twin, TwinConv, keep_to_one_step

Values = dict[str, Tensor]
"""By the name of a node, for all crops."""


@dataclass(frozen=True)
class Block:
    """Nodes of a graph in a row; the last one's value is what the block is for."""

    nodes: list[Node]

    @property
    def operands(self) -> list[Node]:
        """What it reads of earlier nodes."""
        own = set(self.nodes)
        return list(
            dict.fromkeys(operand for node in self.nodes for operand in node.all_input_nodes if operand not in own)
        )

    @property
    def results(self) -> list[Node]:
        """Its last value, then the others that later nodes read."""
        own, last = set(self.nodes), self.nodes[-1]
        return [last, *(node for node in self.nodes[:-1] if any(user not in own for user in node.users))]

    def module(self, graph: GraphModule) -> GraphModule:
        """A graph from its operands to its results; it shares the modules of `graph`."""
        alone = Graph()
        made = {operand: alone.placeholder(operand.name) for operand in self.operands}
        for node in self.nodes:
            made[node] = alone.node_copy(node, lambda old: made[old])
        alone.output(tuple(made[node] for node in self.results))
        return GraphModule(graph, alone)


def blocks(graph: GraphModule) -> list[Block]:
    """The graph cut behind every convolution with a skip operand, of several readers, or before a pixel shuffle."""
    found, current = [], []
    for node in graph.graph.nodes:
        if node.op != "call_module":
            continue
        current.append(node)
        if isinstance(module_of(graph, node), (FusedConv, TwinConv)) and _closes(graph, node):
            found.append(Block(current))
            current = []
    if any(isinstance(module_of(graph, node), (FusedConv, TwinConv)) for node in current):
        found.append(Block(current))
    return found


def _closes(graph: GraphModule, node: Node) -> bool:
    readers = list(node.users)
    before_shuffle = any(isinstance(module_of(graph, reader), nn.PixelShuffle) for reader in readers)
    return len(node.all_input_nodes) > 1 or len(readers) != 1 or before_shuffle


def reconstruct(
    twin: Twin,
    crops: Tensor,
    settings: FineTuneSettings,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train the blocks of `twin` in order on `crops` [N, 3, P, P], `block_iterations` each."""
    found = blocks(twin.graph)
    image = next(node.name for node in twin.graph.graph.nodes if node.op == "placeholder")
    shown: Values = {image: crops}
    floating = _Floating(twin.calibration.graph, crops)
    random = torch.Generator().manual_seed(settings.seed)
    for done, block in enumerate(found):
        inputs = [shown[operand.name] for operand in block.operands]
        module = block.module(twin.graph)
        _train(module, inputs, floating.run_to(block.nodes[-1].name), settings, random)
        shown |= _values(module, block, inputs, settings.batch)
        read_later = {operand.name for later in found[done + 1 :] for operand in later.operands}
        shown = {name: value for name, value in shown.items() if name in read_later}
        if progress:
            progress(done + 1, len(found))


def _values(module: GraphModule, block: Block, inputs: list[Tensor], batch: int) -> Values:
    with torch.no_grad():
        parts = [module(*part) for part in zip(*(x.split(batch) for x in inputs), strict=True)]
    joined = [torch.cat(values) for values in zip(*parts, strict=True)]
    return {node.name: value for node, value in zip(block.results, joined, strict=True)}


class _Floating:
    """Runs the float network step by step and keeps what later steps read."""

    def __init__(self, graph: GraphModule, crops: Tensor) -> None:
        self.graph = graph
        self.nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
        self.values = {node: crops for node in graph.graph.nodes if node.op == "placeholder"}

    def run_to(self, name: str) -> Tensor:
        """The value of the node `name`, which must not have been passed."""
        while True:
            node = self.nodes.pop(0)
            operands = [self.values[operand] for operand in node.all_input_nodes]
            with torch.no_grad():
                value: Tensor = self.graph.get_submodule(str(node.target))(*operands)
            self.values[node] = value
            left = {operand for later in self.nodes for operand in later.all_input_nodes}
            self.values = {kept: tensor for kept, tensor in self.values.items() if kept in left}
            if node.name == name:
                return value


def _parameters(module: GraphModule) -> Iterator[tuple[Group, nn.Parameter]]:
    for child in module.modules():
        if isinstance(child, LatticeQuantizer):
            yield "bounds", child.log_bounds
            if child.log_breakpoint is not None:
                yield "breakpoint", child.log_breakpoint
        elif isinstance(child, TwinConv) and not child.conv.identity:
            yield "weight_scale", child.log_scale
            yield "rounding", child.rounding
            yield "bias", child.bias_levels


def _train(
    module: GraphModule, inputs: list[Tensor], wanted: Tensor, settings: FineTuneSettings, random: torch.Generator
) -> None:
    """Minimize the squared error of the block's last value."""
    parameters = [(group, parameter) for group, parameter in _parameters(module) if group in settings.groups]
    if not parameters:
        return
    for _, parameter in parameters:
        parameter.requires_grad_()
    optimizer = torch.optim.Adam(
        [{"params": [parameter], "rate": settings.rates[group]} for group, parameter in parameters]
    )
    size = wanted.square().mean().clamp_min(1e-12)
    for iteration in range(settings.block_iterations):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * 0.5 * (1 + math.cos(math.pi * iteration / settings.block_iterations))
        picked = torch.randperm(len(wanted), generator=random)[: settings.batch]
        shown, *_ = module(*(x[picked] for x in inputs))
        loss = (shown - wanted[picked]).square().mean() / size
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        keep_to_one_step(module)
    module.requires_grad_(False)
