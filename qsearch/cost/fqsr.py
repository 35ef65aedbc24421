"""FQSR's own counting of operations and memory (Wang et al., ACM MM 2021, Table 2), from the network's graph.

The rule is linear in the bits of the activations, `OPs = MACs·bits/64`, counts convolutions only, truncates each
layer's count to 3 decimals of a GMAC before adding, and takes the live maps of 64 channels at LR size as the memory.
"""

from collections.abc import Sequence

from qsearch.cost.layers import Layer

MAP_CHANNELS = 64
FLOAT_BITS = 32


def truncated_gmac(macs: int) -> float:
    """MACs in 10⁹, truncated to 3 decimals as the paper prints each layer."""
    return macs // 10**6 / 1000


def ops_fqsr(layers: Sequence[Layer], bits: int) -> float:
    """OPs(FQSR) in 10⁹ of a network whose every layer has `bits`: Σ truncated GMAC · bits/64 (32 bits: MACs)."""
    total = sum(truncated_gmac(layer.macs) for layer in layers)
    return total if bits == FLOAT_BITS else total * bits / 64


def memory_mb(height: int, width: int, maps: int, bits: int) -> float:
    """10⁶ bytes of `maps` live maps of 64 channels at `height` × `width` with `bits` per value; HR maps are ignored."""
    return maps * MAP_CHANNELS * height * width * bits / 8 / 1e6
