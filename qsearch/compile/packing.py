"""Parameters of the integer program in the order in which the kernels read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from qsearch.compile import kernels
from qsearch.compile.specs import ConvSpec


@dataclass(frozen=True)
class Requantization:
    """m, m_neg float32 [Co]; bounds int32 [3]; pad uint8 [channels] for the border of the output, if it has one."""

    m: np.ndarray
    m_neg: np.ndarray
    bounds: np.ndarray
    pad: np.ndarray | None


@dataclass(frozen=True)
class Convolution:
    """The arrays of one fused convolution, as `qsearch.integer.ops` takes them."""

    weight: np.ndarray
    groups: int
    bias: np.ndarray
    shift: np.ndarray
    skip_factors: Sequence[np.ndarray]
    outputs: Sequence[Requantization]


def pack(spec: ConvSpec, isa: str, conv: Convolution) -> dict[str, np.ndarray]:
    """Every parameter of `spec.param_names`, one-dimensional, for the kernel of `spec` on `isa`."""
    lanes, channels, total = _lane_order(spec, isa)

    def spread(values: np.ndarray, dtype: str) -> np.ndarray:
        packed = np.zeros(total, dtype)
        packed[lanes] = values[channels]
        return packed

    params = {
        "weight": kernels.pack_weight(spec, isa, _dense(conv.weight, conv.groups, spec.in_channels)),
        "bias": spread(conv.bias, "int32"),
        "shift": spread(conv.shift, "int32"),
    }
    for index, factors in enumerate(conv.skip_factors):
        params[f"k{index}"] = spread(factors, "int32")
    for index, output in enumerate(conv.outputs):
        params[f"m{index}"] = spread(output.m, "float32")
        if spec.prelu:
            params[f"m_neg{index}"] = spread(output.m_neg, "float32")
        params[f"bounds{index}"] = output.bounds.astype("int32")
        if output.pad is not None:
            params[f"pad{index}"] = output.pad
    return params


@cache
def _lane_order(spec: ConvSpec, isa: str) -> tuple[np.ndarray, np.ndarray, int]:
    """The lanes that compute something, the network's channel of each, and the number of all lanes."""
    order = kernels.lane_order(spec, isa)
    lanes, channels = np.array([(lane, channel) for lane, channel in enumerate(order) if channel is not None]).T
    return lanes, channels, len(order)


def _dense(weight: np.ndarray, groups: int, in_channels: int) -> np.ndarray:
    """Weights [Co, in_channels, rows, columns] that read all stored channels; those of other groups are zero."""
    outputs, per_group, rows, columns = weight.shape
    dense = np.zeros((outputs, in_channels, rows, columns), np.int8)
    share = outputs // groups
    for group in range(groups):
        part = slice(group * share, (group + 1) * share)
        dense[part, group * per_group : (group + 1) * per_group] = weight[part]
    return dense
