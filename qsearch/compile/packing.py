"""Parameters of the integer program in the order in which the kernels read them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qsearch.compile.specs import ConvSpec


@dataclass(frozen=True)
class Requantization:
    """m, m_neg float32 [Co]; bounds int32 [3] or [6]; pad uint8 [channels] for the border of the output, if any."""

    m: np.ndarray
    m_neg: np.ndarray
    bounds: np.ndarray
    pad: np.ndarray | None


@dataclass(frozen=True)
class Convolution:
    """The arrays of one fused convolution, as `qsearch.integer.ops` takes them.

    `values` are the lowest and the highest lattice value that its input can hold, borders included.
    """

    weight: np.ndarray
    groups: int
    bias: np.ndarray
    shift: np.ndarray
    skip_factors: Sequence[np.ndarray]
    outputs: Sequence[Requantization]
    values: tuple[int, int]


def epilogue_parameters(spec: ConvSpec, conv: Convolution, order: Sequence[int | None]) -> dict[str, np.ndarray]:
    """All parameters but the weights, with the values of the network's channel `order[i]` in lane i, or zeros."""
    lanes, channels = np.array([(lane, channel) for lane, channel in enumerate(order) if channel is not None]).T

    def spread(values: np.ndarray, dtype: str) -> np.ndarray:
        packed = np.zeros(len(order), dtype)
        packed[lanes] = values[channels]
        return packed

    params = {"bias": spread(conv.bias, "int32"), "shift": spread(conv.shift, "int32")}
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


def compensated(conv: Convolution, offset: int) -> Convolution:
    """`conv` with a bias that makes up for activations lowered by `offset`; exact, as int32 arithmetic wraps."""
    if not offset:
        return conv
    lost = offset * conv.weight.sum(axis=(1, 2, 3), dtype=np.int32)
    return replace(conv, bias=conv.bias + (lost << conv.shift))


def dense(weight: np.ndarray, groups: int, in_channels: int) -> np.ndarray:
    """Weights [Co, in_channels, rows, columns] that read all stored channels; those of other groups are zero."""
    outputs, per_group, rows, columns = weight.shape
    dense = np.zeros((outputs, in_channels, rows, columns), np.int8)
    share = outputs // groups
    for group in range(groups):
        part = slice(group * share, (group + 1) * share)
        dense[part, group * per_group : (group + 1) * per_group] = weight[part]
    return dense


def vector_offsets(row_bytes: int, width: int) -> list[int]:
    """Offsets of the vectors of `width` that cover a row of `row_bytes`; the last may overlap the one before it."""
    return [min(offset, row_bytes - width) for offset in range(0, row_bytes, width)]


def in_vectors(weight: np.ndarray, width: int) -> np.ndarray:
    """Dense weights as [Co, rows, vectors, width]: kernel rows cut at `vector_offsets`, zero where vectors overlap."""
    outputs, channels, rows, columns = weight.shape
    by_row = weight.transpose(0, 2, 3, 1).reshape(outputs, rows, columns * channels)
    parts = []
    for index, offset in enumerate(vector_offsets(columns * channels, width)):
        part = by_row[:, :, offset : offset + width].copy()
        part[:, :, : index * width - offset] = 0
        parts.append(part)
    return np.stack(parts, axis=2)
