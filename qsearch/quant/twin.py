"""A differentiable twin of the integer network: the same values at every site, with gradients for what defines them."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qsearch.allocation import Allocation
from qsearch.passes.operators import FusedConv
from qsearch.passes.quantizers import Quantizer, reads_image, sites
from qsearch.passes.rewrite import copy_graph, module_of
from qsearch.quant.calibration import Calibration
from qsearch.quant.finetuned import FineTuned, fingerprint
from qsearch.quant.grid import Grid, WeightGrid
from qsearch.quant.lattice import LatticeQuantizer

Group = Literal["weight_scale", "bounds", "breakpoint", "rounding", "bias"]
GROUPS: tuple[Group, ...] = ("weight_scale", "bounds", "breakpoint", "rounding", "bias")
"""What can be trained: u_w, (l_a, u_a) and bp of the quantizers, the rounding of the weights, the biases."""
_MARGIN = 0.45
"""How far inside its rounding interval a weight starts whose integer is not the nearest one."""


class TwinConv(nn.Module):
    """A fused convolution on the integer weights of a `WeightGrid`.

    `log_scale` [Co] grows the scale of each output channel, [1] those of all alike. `rounding`, in weight steps, moves
    each weight before it is rounded, by one step at most. `bias_levels` [Co] moves the bias in 255ths of the range that
    its reader covers.
    """

    float_weight: Tensor
    start_scale: Tensor
    start_bias: Tensor
    level: Tensor

    def __init__(
        self,
        conv: FusedConv,
        weight: Tensor,
        start: WeightGrid,
        bits: int,
        bias: Tensor,
        level: float,
        per_tensor: bool = False,
    ) -> None:
        super().__init__()
        self.conv = conv
        self.top = 2 ** (bits - 1) - 1
        self.register_buffer("float_weight", torch.empty_like(conv.weight))
        self.register_buffer("start_scale", torch.empty_like(start.scale))
        self.register_buffer("start_bias", torch.empty_like(bias))
        self.register_buffer("level", torch.tensor(level))
        self.log_scale = nn.Parameter(torch.zeros(1 if per_tensor else len(start.scale)))
        self.rounding = nn.Parameter(torch.zeros_like(conv.weight))
        self.bias_levels = nn.Parameter(torch.zeros_like(bias))
        self.restart(weight, start, bias)

    def restart(self, weight: Tensor, grid: WeightGrid, bias: Tensor) -> None:
        """Begin at the integers and scales of `grid`, which round the real `weight`, and at `bias`."""
        with torch.no_grad():
            real = weight / grid.scale.view(-1, 1, 1, 1)
            values = grid.values.float()
            inside = torch.clamp(real - values, -_MARGIN, _MARGIN)
            beyond = (real.abs() > self.top) & (values.abs() == self.top)
            self.float_weight.copy_(weight)
            self.start_scale.copy_(grid.scale)
            self.start_bias.copy_(bias)
            self.log_scale.zero_()
            self.rounding.copy_(torch.where(beyond, 0.0, values + inside - real))
            self.bias_levels.zero_()

    def scale(self) -> Tensor:
        """float32 [Co]."""
        return self.start_scale * self.log_scale.exp()

    def real(self) -> Tensor:
        """What is rounded to the integer weights, in steps, and not yet clipped."""
        return self.float_weight / self.scale().view(-1, 1, 1, 1) + self.rounding

    def values(self) -> Tensor:
        """The integer weights as floats; rounding passes gradients."""
        real = self.real().clamp(-self.top, self.top)
        return real + (torch.round(real) - real).detach()

    def bias(self) -> Tensor:
        """float32 [Co]."""
        return self.start_bias + self.level * self.bias_levels

    def weight_grid(self) -> WeightGrid:
        """The integer weights as they are now."""
        with torch.no_grad():
            return WeightGrid(torch.round(self.values()).to(torch.int8), self.scale())

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        return self.conv.activate(self.sums(x, *skips))

    def sums(self, x: Tensor, *skips: Tensor) -> Tensor:
        """What the activation is applied to."""
        weight = self.values() * self.scale().view(-1, 1, 1, 1)
        return self.conv.convolve(x, weight, skips, self.bias())


class Twin(nn.Module):
    """The network of `allocation` in float arithmetic, from the grids of `calibration` or from earlier `finetuned`.

    Takes and gives float [N, 3, H, W] in 0…white; the image is not rounded. Sites that hold one value on one grid share
    a quantizer, as they share an operation in the integer network. `per_tensor` lets the scales of a convolution's
    weights grow alike.
    """

    def __init__(
        self,
        calibration: Calibration,
        allocation: Allocation,
        finetuned: FineTuned | None = None,
        per_tensor: bool = False,
    ) -> None:
        super().__init__()
        allocation.check(sites(calibration.graph))
        self.calibration, self.allocation = calibration, allocation
        self.sites: dict[str, str] = {}
        self.graph = copy_graph(calibration.graph)
        grid_of = self._grids(finetuned)
        self._quantizers(grid_of)
        self._convolutions(grid_of, finetuned, per_tensor)
        self.graph.recompile()

    def _grids(self, finetuned: FineTuned | None) -> Callable[[str], Grid]:
        if finetuned is not None:
            finetuned.check(self.calibration.graph, self.allocation)
            return lambda site: finetuned.grids.get(site, self.calibration.image_grid)
        return lambda site: self.calibration.grid(site, self.allocation.sites[site])

    def _quantizers(self, grid_of: Callable[[str], Grid]) -> None:
        shared: dict[tuple[Node, Grid], Node] = {}
        for node in list(self.graph.graph.nodes):
            module = module_of(self.graph, node)
            if not isinstance(module, Quantizer):
                continue
            if reads_image(node.args[0]):
                self.graph.add_submodule(str(node.target), nn.Identity())
                continue
            key = node.args[0], grid_of(module.site)
            if key in shared:
                node.replace_all_uses_with(shared[key])
                self.graph.graph.erase_node(node)
            else:
                shared[key] = node
                self.graph.add_submodule(str(node.target), LatticeQuantizer(key[1]))
            self.sites[module.site] = str(shared[key].target)

    def _convolutions(self, grid_of: Callable[[str], Grid], finetuned: FineTuned | None, per_tensor: bool) -> None:
        source = self.calibration.graph
        for node in source.graph.nodes:
            conv = module_of(source, node)
            if not isinstance(conv, FusedConv):
                continue
            setting = self.allocation.sites[f"{conv.name}.weight"]
            weight, bias = conv.weight.detach(), conv.bias.detach()
            start = self.calibration.weight(conv, setting.bits, setting.observer)
            if finetuned is not None:
                weight, start, bias = _stored(conv, finetuned)
            grids = [grid_of(site) for site in _reading_sites(source, node)] or [self.calibration.image_grid]
            level = min(grid.span * grid.scale for grid in grids) / 255
            copied = self.graph.get_submodule(str(node.target))
            assert isinstance(copied, FusedConv)
            made = TwinConv(copied, weight, start, setting.bits, bias, level, per_tensor)
            self.graph.add_submodule(str(node.target), made)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.graph(x)
        return result

    def convolutions(self) -> dict[str, TwinConv]:
        """By the name of the convolution."""
        return {module.conv.name: module for module in self.graph.modules() if isinstance(module, TwinConv)}

    def parameter_groups(self) -> dict[Group, list[nn.Parameter]]:
        """The parameters of every group, of identity convolutions none; no breakpoints without piecewise sites."""
        groups: dict[Group, list[nn.Parameter]] = {group: [] for group in GROUPS}
        for conv in self.convolutions().values():
            if conv.conv.identity:
                continue
            groups["weight_scale"].append(conv.log_scale)
            groups["rounding"].append(conv.rounding)
            groups["bias"].append(conv.bias_levels)
        for module in self.graph.modules():
            if isinstance(module, LatticeQuantizer):
                groups["bounds"].append(module.log_bounds)
                if module.log_breakpoint is not None:
                    groups["breakpoint"].append(module.log_breakpoint)
        return groups

    def finetuned(self) -> FineTuned:
        """What the twin is now, for the integer network."""
        grids = {}
        for site, target in self.sites.items():
            quantizer = self.graph.get_submodule(target)
            assert isinstance(quantizer, LatticeQuantizer)
            grids[site] = quantizer.grid()
        convolutions = self.convolutions()
        return FineTuned(
            self.allocation,
            fingerprint(self.calibration.graph),
            grids,
            {name: conv.weight_grid() for name, conv in convolutions.items()},
            {name: conv.bias().detach().clone() for name, conv in convolutions.items()},
        )


def keep_to_one_step(module: nn.Module) -> None:
    """After an optimizer's step: no weight is rounded to more than the integer beside its nearest."""
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, TwinConv):
                child.rounding.clamp_(-1, 1)


def _stored(conv: FusedConv, finetuned: FineTuned) -> tuple[Tensor, WeightGrid, Tensor]:
    """Real weights, their integers and the bias; the real weights are those of `conv` where these round to them."""
    grid = finetuned.weights[conv.name]
    scale = grid.scale.view(-1, 1, 1, 1)
    beside = (conv.weight.detach() / scale - grid.values).clamp(-_MARGIN, _MARGIN)
    return (grid.values + beside) * scale, grid, finetuned.biases[conv.name]


def _reading_sites(graph: GraphModule, node: Node) -> list[str]:
    """The sites that read the value of a convolution, through index maps."""
    found = []
    for user in node.users:
        module = module_of(graph, user)
        if isinstance(module, Quantizer):
            found.append(module.site)
        else:
            found += _reading_sites(graph, user)
    return found
