"""Fitted weights: nearer to the float network, rounded better than to nearest, for every kind of convolution."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qsearch.allocation import uniform
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.passes.operators import FusedConv
from qsearch.quant import refit as module
from qsearch.quant.crops import Crops
from qsearch.quant.refit import refit
from qsearch.quant.twin import Twin
from tests.quant.test_finetune import error, pictures
from tests.tiny import TINY


@pytest.fixture(scope="module")
def network() -> CalibratedNetwork:
    return CalibratedNetwork.make(load(TINY), pictures())


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_the_integer_network_comes_nearer_to_the_float_one(network: CalibratedNetwork, bits: int) -> None:
    allocation = uniform(network.sites, bits, 8)
    twin = Twin(network.calibration, allocation)
    done: list[int] = []
    crops = Crops(pictures(), network.model.white).batch((1,), 16, 24)
    refit(twin, crops, 1e-2, progress=done.append)
    assert done == list(range(1, len(twin.convolutions()) + 1))
    assert error(network, allocation, twin.finetuned()) < 0.9 * error(network, allocation, None)


def test_dead_inputs_leave_finite_weights(network: CalibratedNetwork) -> None:
    twin = Twin(network.calibration, uniform(network.sites, 8, 8))
    black = [np.zeros((24, 24, 3), np.uint8)]
    refit(twin, Crops(black, network.model.white).batch((1,), 4, 24), 1e-2)
    for conv in twin.convolutions().values():
        assert torch.isfinite(conv.scale()).all()
        assert torch.isfinite(conv.bias()).all()


@given(
    groups=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.sampled_from([1, 2]),
    border=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 99),
)
@settings(max_examples=20, deadline=None)
def test_columns_are_what_the_kernel_reads(groups: int, kernel: int, stride: int, border: float, seed: int) -> None:
    torch.manual_seed(seed)
    raw = nn.Conv2d(4, 6, kernel, stride=stride, padding=kernel // 2, groups=groups)
    conv = FusedConv("layer", raw, (kernel // 2, kernel // 2))
    conv.pad_value.fill_(border)
    x = torch.randn(2, 4, 9, 7)
    sums = conv.convolve(x, conv.weight, ())
    chosen = module._positions(sums, seed)
    found = []
    for group, weight in enumerate(conv.weight.chunk(groups)):
        width = 4 // groups
        parts = module._columns(conv, x, chosen, slice(group * width, (group + 1) * width))
        found.append(torch.cat(list(parts)) @ weight.flatten(1).T)
    assert torch.allclose(torch.cat(found, 1) + conv.bias, module._at(sums, chosen), atol=1e-4)


@given(bits=st.integers(2, 8), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_compensated_rounding_beats_rounding_to_nearest(bits: int, seed: int) -> None:
    torch.manual_seed(seed)
    weight = torch.randn(24, 36).double()
    mixed = torch.randn(500, 36).double() @ torch.randn(36, 36).double()
    square, top = mixed.T @ mixed / 500, 2 ** (bits - 1) - 1
    values, scale = module._rounded(weight, square, top)
    assert values.abs().max() <= top
    assert torch.equal(values, values.round())

    def cost(shown: torch.Tensor) -> float:
        off = shown - weight
        return float(((off @ square) * off).sum())

    nearest = (weight / scale[:, None]).round().clamp(-top, top) * scale[:, None]
    assert cost(values * scale[:, None]) <= cost(nearest)
