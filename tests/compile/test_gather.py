"""How many products fit in 16 bits: never one too many, and as many as the form with equal groups allows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qsearch.compile import kernels
from qsearch.compile.kernels.gather import most_quads
from qsearch.compile.packing import Convolution
from qsearch.compile.specs import ConvSpec, OutSpec


def convolution(weight: np.ndarray, values: tuple[int, int]) -> tuple[ConvSpec, Convolution]:
    outputs, channels, *kernel = weight.shape
    spec = ConvSpec((kernel[0], kernel[1]), 1, (0, 0), channels, 0, outputs, (OutSpec(outputs, 0),))
    zeros = np.zeros(outputs, np.int32)
    return spec, Convolution(weight.astype(np.int8), 1, zeros, zeros, [], [], values)


def lane_sums(weight: np.ndarray, values: tuple[int, int], quads: int) -> np.ndarray:
    """The extreme sums of every int16 lane over all groups of `quads` quads of a kernel row, or of the whole kernel."""
    signed = [value - (128 if values[1] > 127 else 0) for value in values]
    outputs, channels, rows, columns = weight.shape
    flat = weight.transpose(0, 2, 3, 1).reshape(outputs, rows, columns * channels).astype(int)
    if quads * 4 > columns * channels:
        flat = flat.reshape(outputs, 1, -1)
    sums = []
    for start in range(0, flat.shape[2], quads * 4):
        group = flat[:, :, start : start + quads * 4]
        for lane in range(2):
            ends = np.stack([np.concatenate([group[..., lane::4], group[..., lane + 2 :: 4]], 2) * s for s in signed])
            sums += [ends.max(0).sum(2), ends.min(0).sum(2)]
    return np.stack(sums)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([4, 8, 20, 32]), st.integers(1, 3), st.integers(1, 3)),
    largest=st.sampled_from([1, 3, 7, 20, 127, 128]),
    values=st.tuples(st.integers(0, 255), st.integers(0, 255)).map(lambda ends: (min(ends), max(ends))),
    seed=st.integers(0, 99),
)
def test_gathered_sums_fit(shape: tuple[int, ...], largest: int, values: tuple[int, int], seed: int) -> None:
    weight = np.random.default_rng(seed).integers(-largest, min(largest, 127), shape, endpoint=True)
    quads = most_quads(*convolution(weight, values))
    if quads is None:
        single = lane_sums(weight, values, 1)
        assert single.max() > 32767 or single.min() < -32768
    else:
        sums = lane_sums(weight, values, quads)
        assert sums.max() <= 32767
        assert sums.min() >= -32768


def test_fewer_bits_are_gathered_longer() -> None:
    """The limits: -128 twice times -128 is one too much, and low bits need no widening before the end."""
    weight = np.zeros((4, 32, 3, 3), int)
    weight[0, 0] = weight[0, 2] = -128
    assert most_quads(*convolution(weight, (0, 255))) is None
    weight[0, 2] = -127
    assert most_quads(*convolution(weight, (0, 255))) == 8  # the other 30 channels add nothing
    weight[:] = 127
    assert most_quads(*convolution(weight, (0, 255))) == 1
    weight[:] = 7
    assert most_quads(*convolution(weight, (0, 15))) == 3 * 3 * 32 // 4
    spec, conv = convolution(weight, (0, 15))
    forms = [form.algorithm for form in kernels.candidates(spec, "arm_neon", conv)]
    assert forms[-3:] == ["gather:72:7bit", "gather:1:7bit", "direct"]
    assert not any("gather" in form.algorithm for form in kernels.candidates(spec, "arm_dotprod", conv))
