"""The three costs that are kept apart: BitOPs, FQSR's own count, and bytes."""

from qsearch.cost.activations import peak_bytes
from qsearch.cost.bitops import bitops, float_bitops, weight_bytes
from qsearch.cost.fqsr import live_maps, memory_mb, ops_fqsr
from qsearch.cost.layers import Layer, layers

__all__ = [
    "Layer",
    "bitops",
    "float_bitops",
    "layers",
    "live_maps",
    "memory_mb",
    "ops_fqsr",
    "peak_bytes",
    "weight_bytes",
]
