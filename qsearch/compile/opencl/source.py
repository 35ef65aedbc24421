"""The OpenCL C program of a network."""

from collections.abc import Iterable
from importlib.resources import files

from qsearch.compile.opencl.shape import Gpu, Shape
from qsearch.compile.specs import ConvSpec, ImageSpec, KernelSpec, OutSpec, stored

_HERE = files("qsearch.compile.opencl")


def program(kernels: Iterable[KernelSpec], gpu: Gpu) -> list[str]:
    """The program of all `kernels` as parts that follow each other, of which the templates are equal strings."""
    parts = [_HERE.joinpath("prelude.cl").read_text()]
    templates = {kind: _HERE.joinpath(f"{kind}.cl").read_text() for kind in ("conv", "image")}
    for spec in kernels:
        kind, macros = ("image", _image(spec)) if isinstance(spec, ImageSpec) else ("conv", _conv(spec, gpu))
        lines = [f"#undef {name.split('(')[0]}\n#define {name} {value}\n" for name, value in macros.items()]
        parts += ["".join(lines), templates[kind]]
    return parts


def _image(spec: ImageSpec) -> dict[str, str | int]:
    return {
        "KERNEL": spec.symbol,
        "IMAGE_CHANNELS": spec.channels,
        "QUADS": stored(spec.channels) // 4,
        "BORDER": spec.border,
    }


def _conv(spec: ConvSpec, gpu: Gpu) -> dict[str, str | int]:
    shape = Shape(spec)
    pixels = shape.pixels(gpu)
    skips = [f"DO({i}, {s.channels}, {s.border}, {s.repeat})" for i, s in enumerate(spec.skips)]
    outputs = [f"DO({i}, {_output(output)})" for i, output in enumerate(spec.outputs)]
    group = f"(block) * {shape.block_quads} % {shape.sub_quads} / {shape.group_quads} * {shape.read_quads}"
    return {
        "KERNEL": spec.symbol,
        "KERNEL_ROWS": spec.kernel[0],
        "KERNEL_COLUMNS": spec.kernel[1],
        "STRIDE": spec.stride,
        "TOP": spec.in_border - spec.padding[0],
        "LEFT": spec.in_border - spec.padding[1],
        "IN_QUADS": spec.in_channels // 4,
        "READ_QUADS": shape.read_quads,
        "FIRST_QUAD(block)": group if spec.groups > 1 else 0,
        "SHUFFLE": spec.shuffle,
        "SUB_QUADS": shape.sub_quads,
        "QUADS": shape.quads,
        "BLOCK_QUADS": shape.block_quads,
        "PIXELS": pixels,
        "WINDOW": (pixels - 1) * spec.stride + spec.kernel[1],
        "PRELU": int(spec.prelu),
        "FOR_SKIPS(DO)": " ".join(skips),
        "FOR_OUTPUTS(DO)": " ".join(outputs),
    }


def _output(output: OutSpec) -> str:
    """channels, border, padded, piecewise, offset, pitch, whole"""
    whole = output.channels % 4 == 0 and output.pitch % 4 == 0 and output.offset % 4 == 0
    flags = output.channels, output.border, output.border > 0, output.piecewise, output.offset, output.pitch, whole
    return ", ".join(str(int(flag)) for flag in flags)
