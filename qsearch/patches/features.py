"""What the float network makes of a patch: statistics of the features from which it upscales."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule, Node

from qsearch.errors import QsearchError
from qsearch.passes.operators import FusedConv
from qsearch.passes.quantizers import Quantizer
from qsearch.passes.rewrite import copy_graph, module_of
from qsearch.quant.lattice import LatticeQuantizer
from qsearch.quant.twin import TwinConv

BATCH = 32


def patch_features(graph: GraphModule, patches: Sequence[NDArray[np.uint8]], white: float) -> NDArray[np.float64]:
    """Mean magnitude and deviation of every feature channel, float64 [N, 2·channels], standardized over the patches.

    `graph` is a prepared float network and `patches` are uint8 [h, w, 3] of one size. The features are what the
    convolution before the first upsampling reads, or the last convolution where there is none.
    """
    body = _body(graph)
    rows = []
    for start in range(0, len(patches), BATCH):
        pixels = torch.from_numpy(np.stack(patches[start : start + BATCH])).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            found = body(pixels * (white / 255.0))
        rows.append(torch.cat([found.abs().mean((2, 3)), found.std((2, 3), correction=0)], 1).double().numpy())
    values = np.concatenate(rows)
    return (values - values.mean(0)) / np.maximum(values.std(0), 1e-9)


def _body(graph: GraphModule) -> GraphModule:
    """The graph up to the features."""
    cut = copy_graph(graph)
    source = last_at_input_size(cut).args[0]
    output = next(node for node in cut.graph.nodes if node.op == "output")
    output.args = (source,)
    cut.graph.eliminate_dead_code()
    cut.recompile()
    return cut


def last_at_input_size(graph: GraphModule) -> Node:
    """The convolution before the first upsampling, or the last one where there is none."""
    convolutions = [node for node in graph.graph.nodes if isinstance(module_of(graph, node), (FusedConv, TwinConv))]
    if not convolutions:
        raise QsearchError("the network has no convolution whose features could be clustered")
    for node in convolutions:
        if any(isinstance(module_of(graph, user), nn.PixelShuffle) for user in _readers(graph, node)):
            return node
    return convolutions[-1]


def _readers(graph: GraphModule, node: Node) -> list[Node]:
    """Who reads the value of `node`, through quantizers."""
    found: list[Node] = []
    for user in node.users:
        found += _readers(graph, user) if isinstance(module_of(graph, user), (Quantizer, LatticeQuantizer)) else [user]
    return found
