"""The quantized graph in float arithmetic: what every site shows, with gradients possible."""

import copy

import torch
from torch.fx import GraphModule

from qsearch.allocation import Allocation
from qsearch.passes.operators import FusedConv
from qsearch.passes.quantizers import Quantizer
from qsearch.quant.calibration import Calibration


def fake_quantized(calibration: Calibration, allocation: Allocation) -> GraphModule:
    """A new graph with the grids of `allocation` in every quantizer and dequantized weights in every convolution."""
    graph = copy.deepcopy(calibration.graph)
    for module in graph.modules():
        if isinstance(module, Quantizer):
            site = allocation.sites[module.site]
            grid = calibration.grid(module.site, site)
            module.scale = torch.tensor(grid.scale)
            module.bounds = torch.tensor(grid.bounds, dtype=torch.float32)
        elif isinstance(module, FusedConv):
            site = allocation.sites[f"{module.name}.weight"]
            module.weight.data = calibration.weight(module, site.bits, site.observer).dequantize()
    return graph
