"""Exact integer Winograd: fewer multiplications where the values of a layer leave room in their bytes.

A form is named after its vertical and its horizontal transform, for example "winograd:f2xf4", see `transforms.PLANES`.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qsearch.compile.kernels.isa import Isa
from qsearch.compile.kernels.products import vertical_of
from qsearch.compile.kernels.transforms import F4, PLANES, TAPS, Plane
from qsearch.compile.kernels.winograd_kernel import Winograd, layout_of
from qsearch.compile.packing import Convolution, dense, epilogue_parameters
from qsearch.compile.specs import ConvSpec

_NAME = "winograd"
_FEWEST_WEIGHTS = 300
"""Per tap; with fewer, the transforms cost what they save."""


def forms(spec: ConvSpec, isa: Isa, conv: Convolution) -> list[ConvSpec]:
    """See `Algorithm.forms`."""
    small = spec.in_channels * spec.out_channels < _FEWEST_WEIGHTS
    if spec.kernel != (TAPS, TAPS) or spec.stride != 1 or conv.groups > 1 or small:
        return []
    planes = {name: plane for name, plane in PLANES.items() if isa.large_transforms or plane.vertical is not F4}
    return [
        replace(spec, algorithm=f"{_NAME}:{name}", groups=1) for name, plane in planes.items() if is_exact(plane, conv)
    ]


def is_exact(plane: Plane, conv: Convolution) -> bool:
    """Whether all values of `conv` fit into their bytes and words, whatever the image."""
    if not plane.data_fit(*conv.values):
        return False
    transformed = plane.transform(conv.weight)
    fit = plane.weights_fit(transformed) and plane.sums_fit(transformed, conv.values[0])
    return fit and bool((_largest(conv) << _doublings(plane, conv) < 2**31).all())


def _largest(conv: Convolution) -> np.ndarray:
    """A bound of the accumulators' magnitude per output channel, int64."""
    sums = np.abs(conv.weight.astype(np.int64)).sum((1, 2, 3)) * max(map(abs, conv.values))
    skips = sum((np.abs(factors.astype(np.int64)) * 255 for factors in conv.skip_factors), np.int64(0))
    return (sums << conv.shift) + np.abs(conv.bias.astype(np.int64)) + skips


def _doublings(plane: Plane, conv: Convolution) -> np.ndarray:
    """How often the accumulators must be doubled so that their shift is at least the power of two of the transform."""
    return np.maximum(plane.factor.bit_length() - 1 - conv.shift, 0)


def _for_multiples(plane: Plane, conv: Convolution) -> Convolution:
    """What follows the sums of `conv`, for sums times `plane.factor`: the shift takes it back, exactly.

    Where the shift is too small for that, the accumulators are doubled and their float32 factors halved.
    """
    doublings = _doublings(plane, conv)
    outputs = [
        replace(output, m=np.ldexp(output.m, -doublings), m_neg=np.ldexp(output.m_neg, -doublings))
        for output in conv.outputs
    ]
    return replace(
        conv,
        shift=conv.shift + doublings - (plane.factor.bit_length() - 1),
        bias=conv.bias << doublings,
        skip_factors=[factors << doublings for factors in conv.skip_factors],
        outputs=outputs,
    )


def kernel(spec: ConvSpec, isa: Isa) -> Winograd:
    """See `Algorithm.kernel`."""
    return Winograd(spec, isa, _plane(spec))


def _plane(spec: ConvSpec) -> Plane:
    return PLANES[spec.algorithm.split(":")[1]]


def linear_weights(spec: ConvSpec, isa: Isa) -> tuple[np.ndarray, list[int]]:
    """The matrix [positions, taps] that turns the taps of every filter into what `pack` stores, and the bytes of one
    position in each of its tiles, one after the other.
    """
    plane = _plane(spec)
    taps = np.eye(TAPS * TAPS, dtype=np.int32).reshape(-1, 1, TAPS, TAPS)
    matrix = plane.transform(taps)[:, 0].transpose(2, 1, 0).reshape(-1, TAPS * TAPS)
    return matrix, [count * isa.lanes * spec.in_channels for _, count in layout_of(spec, isa, plane).tiles]


def pack(spec: ConvSpec, isa: Isa, conv: Convolution) -> Mapping[str, np.ndarray]:
    """See `Algorithm.pack`."""
    plane = _plane(spec)
    layout, vertical = layout_of(spec, isa, plane), vertical_of(plane)
    transformed = plane.transform(dense(conv.weight, conv.groups, spec.in_channels))
    rest = np.zeros((1, *transformed.shape[1:]), np.int32)
    order = layout.order
    lanes = np.concatenate([transformed, rest])[[-1 if channel is None else channel for channel in order]]
    _, channels, rows, positions = lanes.shape
    offsets = plane.offsets(conv.values[0])
    # The instruction set lowers the data by an offset of its own.
    sums = lanes.sum(1).transpose(1, 2, 0)
    starts = np.stack(vertical.starts(-(offsets - isa.offset)[:, :, None] * sums))
    weights, initial = [], []
    for first, count in layout.tiles:
        part = slice(first * isa.lanes, (first + count) * isa.lanes)
        split = lanes[part].astype(np.int8).reshape(count, isa.lanes, channels // 4, 4, rows, positions)
        weights.append(isa.in_memory(split.transpose(5, 4, 2, 0, 1, 3)))
        initial.append(starts[:, :, part].transpose(1, 0, 2).ravel())
    return {
        "weight": np.concatenate(weights),
        **epilogue_parameters(spec, _for_multiples(plane, conv), order),
        "start": np.concatenate(initial).astype(np.int32),
        "offset": offsets[plane.coefficients > 0].astype(np.uint8),
    }
