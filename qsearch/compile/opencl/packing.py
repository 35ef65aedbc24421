"""Parameters in the order in which the OpenCL kernels read them."""

import numpy as np

from qsearch.compile.opencl.shape import Shape
from qsearch.compile.packing import Convolution, dense, epilogue_parameters
from qsearch.compile.specs import ConvSpec

# Devices that multiply only int8 by int8 read activations moved by this much.
OFFSET = 128


def pack(spec: ConvSpec, conv: Convolution) -> dict[str, np.ndarray]:
    """Every parameter of `spec.param_names`, one-dimensional.

    Weights are int8 [row, input quad, column, lane, 4]. After the bias stand the sums of all lanes' weights times 128.
    """
    order = Shape(spec).order
    weight = conv.weight if spec.groups > 1 else dense(conv.weight, conv.groups, spec.in_channels)
    _, channels, rows, columns = weight.shape
    rest = np.zeros((1, channels, rows, columns), np.int8)
    lanes = np.concatenate([weight, rest])[[-1 if channel is None else channel for channel in order]]
    params = epilogue_parameters(spec, conv, order)
    sums = lanes.sum(axis=(1, 2, 3), dtype=np.int32) * np.int32(OFFSET)
    quads = lanes.reshape(len(order), channels // 4, 4, rows, columns)
    weights = np.ascontiguousarray(quads.transpose(3, 1, 4, 0, 2)).ravel()
    return {**params, "weight": weights, "bias": np.concatenate([params["bias"], sums])}
