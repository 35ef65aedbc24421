"""FQSR's own counting of operations and memory (Wang et al., ACM MM 2021, Table 2), from the network's graph.

The rule is linear in the bits of the activations, `OPs = MACs·bits/64`, counts the multiplications of convolutions
only and truncates each layer's count to 3 decimals of a GMAC before adding. Memory is the live maps of the body at LR
size; maps at HR size are ignored, which is why `peak_bytes` is reported beside it.
"""

from collections.abc import Mapping, Sequence

from torch import nn
from torch.fx import GraphModule, Node

from qsearch.cost.layers import Layer
from qsearch.passes.operators import FusedConv
from qsearch.passes.rewrite import module_of

FLOAT_BITS = 32


def ops_fqsr(layers: Sequence[Layer], bits: Mapping[str, int]) -> float:
    """OPs(FQSR) in 10⁹: Σ GMAC of the layer, truncated to 3 decimals, times bits/64 (32 bits count in full).

    `bits` gives the width of weights and activations of each layer by name.
    """
    total = 0.0
    for layer in layers:
        gmac = layer.macs // 10**6 / 1000
        total += gmac if bits[layer.name] == FLOAT_BITS else gmac * bits[layer.name] / 64
    return total


def live_maps(graph: GraphModule) -> int:
    """The most feature maps that are needed at one time before the first upsampling: trunk, short and long skips."""
    order = {node: index for index, node in enumerate(graph.graph.nodes)}
    most = 0
    for node in graph.graph.nodes:
        if not isinstance(module_of(graph, node), FusedConv):
            continue
        now = order[node]
        maps = [value for value in order if _is_map(graph, value) and order[value] < now]
        most = max(most, sum(_last(graph, value, order) >= now for value in maps))
        if any(_shuffles(graph, user) for user in node.users):
            break
    return most


def memory_mb(height: int, width: int, channels: int, maps: int, bits: int) -> float:
    """10⁶ bytes of `maps` maps of `channels` × `height` × `width` values of `bits`."""
    return maps * channels * height * width * bits / 8 / 1e6


def _is_map(graph: GraphModule, node: Node) -> bool:
    return isinstance(module_of(graph, node), FusedConv)


def _shuffles(graph: GraphModule, node: Node) -> bool:
    return isinstance(module_of(graph, node), nn.PixelShuffle)


def _last(graph: GraphModule, node: Node, order: dict[Node, int]) -> int:
    """When the last convolution reads the value of `node`, through quantizers."""
    last = order[node]
    for user in node.users:
        last = max(last, order[user] if _is_map(graph, user) else _last(graph, user, order))
    return last
