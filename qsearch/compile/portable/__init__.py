"""Kernels in plain C, for processors of which LLVM's features are unknown: slower, but right on every one.

The kernels are two readable templates, `conv.c` and `image.c`; Python only writes the constants of a layer before them.
"""

from dataclasses import replace
from importlib.resources import files

import numpy as np

from qsearch.compile.packing import Convolution, dense, epilogue_parameters
from qsearch.compile.specs import ConvSpec, ImageSpec, KernelSpec

ISA = "portable_c"
"""The name of the instruction set in a plan."""
FOLDER = files("qsearch.compile") / "portable"


def form(spec: ConvSpec, conv: Convolution) -> ConvSpec:
    """`spec` as the templates compute it."""
    whole = spec.in_channels == conv.groups * conv.weight.shape[1]
    return replace(spec, algorithm="portable", groups=conv.groups if whole else 1)


def pack(spec: ConvSpec, conv: Convolution) -> dict[str, np.ndarray]:
    """Every parameter of `spec.param_names`, one-dimensional; weights are [row, column, input channel, output]."""
    weight = conv.weight if spec.groups > 1 else dense(conv.weight, conv.groups, spec.in_channels)
    weights = np.ascontiguousarray(weight.transpose(2, 3, 1, 0)).ravel()
    return {"weight": weights, **epilogue_parameters(spec, conv, range(spec.out_channels))}


def source(spec: KernelSpec) -> str:
    """The C source of a kernel; it includes a template of this folder and `qs_abi.h` of the runtime."""
    constants = _image(spec) if isinstance(spec, ImageSpec) else _conv(spec)
    template = "image.c" if isinstance(spec, ImageSpec) else "conv.c"
    return "\n".join([f"#define KERNEL __tvm_ffi_{spec.symbol}", *constants, f'#include "{template}"', ""])


def _image(spec: ImageSpec) -> list[str]:
    return [f"enum {{ CHANNELS = {spec.channels}, BORDER = {spec.border} }};"]


def _conv(spec: ConvSpec) -> list[str]:
    place = {name: 1 + len(spec.skips) + len(spec.outputs) + i for i, name in enumerate(spec.param_names)}
    values = {
        "ROWS": spec.kernel[0],
        "COLUMNS": spec.kernel[1],
        "STRIDE": spec.stride,
        "TOP": spec.in_border - spec.padding[0],
        "LEFT": spec.in_border - spec.padding[1],
        "IN_CHANNELS": spec.in_channels,
        "CHANNELS": spec.out_channels,
        "GROUPS": spec.groups,
        "SHUFFLE": spec.shuffle,
        "PRELU": int(spec.prelu),
        "NUM_SKIPS": len(spec.skips),
        "NUM_OUTPUTS": len(spec.outputs),
        "NUM_TENSORS": 1 + len(spec.skips) + len(spec.outputs) + len(spec.param_names),
        "WEIGHT": place["weight"],
        "BIAS": place["bias"],
        "SHIFT": place["shift"],
    }
    skips = [f"{{{s.channels}, {s.border}, {s.repeat}, {place[f'k{i}']}}}" for i, s in enumerate(spec.skips)]
    outputs = [
        f"{{{o.channels}, {o.border}, {int(o.piecewise)}, {o.offset}, {o.pitch}, {place[f'm{i}']}, "
        f"{place.get(f'm_neg{i}', 0)}, {place[f'bounds{i}']}, {place.get(f'pad{i}', 0)}}}"
        for i, o in enumerate(spec.outputs)
    ]
    return [
        f"enum {{ {', '.join(f'{name} = {value}' for name, value in values.items())} }};",
        f"#define SKIPS {{{', '.join([*skips, '{0}'])}}}",
        f"#define OUTPUTS {{{', '.join(outputs)}}}",
    ]
