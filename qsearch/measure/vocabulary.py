"""The operations that networks for super-resolution are made of, for a table without a network."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from qsearch.compile.packing import Convolution, Requantization
from qsearch.compile.specs import ConvSpec, ImageSpec, OutSpec, SkipSpec, stored
from qsearch.measure.modelled import choice_for
from qsearch.measure.operations import Operation, Size
from qsearch.measure.profiling import Layer
from qsearch.target import Target

_WIDTHS = (16, 28, 32, 64)


def vocabulary(target: Target, size: Size) -> list[Layer]:
    """One layer for each kind of operation on an input of `size` = (rows, columns), at 8 bits."""
    choose = choice_for(target)
    layers = [Layer("image", Operation(ImageSpec(3, 1), size), None)]
    for index, (spec, groups) in enumerate(_convolutions()):
        conv = _random(spec, groups)
        layers.append(Layer(f"op{index}", Operation(choose(spec, target.isa, conv), size), conv))
    return layers


def _convolutions() -> Iterator[tuple[ConvSpec, int]]:
    for width in _WIDTHS:
        yield _spec(3, 4, width), 1
        yield _spec(3, width, width), 1
    body = _spec(3, 64, 64)
    yield _spec(1, 64, 64), 1
    yield _spec(5, 64, 64), 1
    yield _spec(9, 4, 64), 1
    yield _spec(9, 64, 3, image=True), 1
    yield _spec(3, 64, 3, image=True), 1
    yield body, 4
    yield replace(body, prelu=True), 1
    yield replace(body, skips=(SkipSpec(64, 1),)), 1
    yield replace(body, outputs=(OutSpec(64, 1), OutSpec(64, 1))), 1
    yield replace(body, outputs=(OutSpec(64, 1, piecewise=True),)), 1
    yield replace(body, outputs=(OutSpec(64, 1, offset=64, joined=128),)), 1
    yield replace(_spec(3, 64, 256), shuffle=2, outputs=(OutSpec(64, 1),)), 1
    yield replace(_spec(3, 64, 48), shuffle=4, outputs=(OutSpec(3, 0),)), 1
    anchored = replace(_spec(3, 28, 27), shuffle=3, outputs=(OutSpec(3, 0),))
    yield anchored, 1
    yield replace(anchored, skips=(SkipSpec(4, 1, 9),)), 1


def _spec(kernel: int, inputs: int, outputs: int, image: bool = False) -> ConvSpec:
    half = kernel // 2
    place = OutSpec(outputs, 0) if image else OutSpec(stored(outputs), 1)
    return ConvSpec((kernel, kernel), 1, (half, half), inputs, half, outputs, (place,))


def _random(spec: ConvSpec, groups: int) -> Convolution:
    """Random parameters of 8 bits."""
    random, channels = np.random.default_rng(0), spec.out_channels
    # The fourth channel of an image is stored and not real.
    inputs = 3 if spec.in_channels == stored(3) else spec.in_channels // groups
    weight = random.integers(-127, 128, (channels, inputs, *spec.kernel)).astype(np.int8)
    m, zeros = np.full(channels, 1e-4, np.float32), np.zeros(channels, np.int32)
    outputs = [
        Requantization(
            m,
            m / 10,
            np.array([0, 0, 255, *([64, 192, 2] if output.piecewise else [])], np.int32),
            np.zeros(output.channels, np.uint8) if output.border else None,
        )
        for output in spec.outputs
    ]
    factors = [np.ones(channels, np.int32) for _ in spec.skips]
    return Convolution(weight, groups, zeros, zeros, factors, outputs, (0, 255))
