"""BitOPs and weight bytes of an allocation."""

from collections.abc import Sequence

from qsearch.allocation import Allocation
from qsearch.cost.layers import Layer

FLOAT_BITS = 32
BIAS_BYTES, FACTOR_BYTES = 4, 4


def bitops(layers: Sequence[Layer], allocation: Allocation) -> int:
    """Σ MAC · bits of the weight · bits of the input, over every convolution, first and last included."""
    return sum(layer.macs * _bits(allocation, layer, "weight") * _bits(allocation, layer, "input") for layer in layers)


def float_bitops(layers: Sequence[Layer]) -> int:
    """The same for the float32 network: every MAC costs 32·32."""
    return sum(layer.macs for layer in layers) * FLOAT_BITS**2


def weight_bytes(layers: Sequence[Layer], allocation: Allocation) -> int:
    """Bytes of the packed weights, an int32 bias and a float32 factor per output channel."""
    return sum(
        -(-layer.weights * _bits(allocation, layer, "weight") // 8) + layer.out_channels * (BIAS_BYTES + FACTOR_BYTES)
        for layer in layers
    )


def _bits(allocation: Allocation, layer: Layer, role: str) -> int:
    return allocation.bits(f"{layer.name}.{role}")
