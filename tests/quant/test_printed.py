"""The quantizer as printed: how many values it has, that none is zero, and what it costs after a ReLU."""

import pytest
import torch

from qsearch.allocation import uniform
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.quant.choice import with_quantizers
from qsearch.quant.moving import MovingRange, moving_ranges, piecewise_of
from qsearch.quant.printed import as_printed, printed_piecewise
from qsearch.quant.twin import Twin
from tests.quant.test_finetune import pictures
from tests.tiny import TINY


@pytest.mark.parametrize("bits", [3, 4, 5, 6])
def test_two_codes_fewer_than_bits_allow_and_none_is_zero(bits: int) -> None:
    x = torch.linspace(-20, 20, 200_001)
    values = printed_piecewise(x, MovingRange(-16.0, 12.0, 2.0), bits)
    distinct = values.sort().values
    count = 1 + int(((distinct[1:] - distinct[:-1]) > 1e-4).sum())
    assert count == 2**bits - 2
    assert values.abs().min() > 1e-3
    assert (values.min(), values.max()) == (-16, 12)
    assert ((values - x).abs()[(x > -2) & (x < 2)] <= 2 / (2 ** (bits - 1) - 1) + 1e-5).all()


def test_a_dead_side_wastes_half_of_its_codes_and_ours_do_not() -> None:
    torch.manual_seed(0)
    x = torch.randn(20_000).abs() ** 3
    found = MovingRange(0.0, float(x.max()), float(x.quantile(0.99)))
    grid = piecewise_of(found, 4)
    low, high, ratio = grid.pieces or (0, 0, 1)
    values = torch.tensor([*range(low, high + 1), *range(high + ratio, grid.hi + 1, ratio)]) * grid.scale
    ours = values[(x[:, None] - values).abs().argmin(1)]
    assert (ours - x).square().mean() < 0.5 * (printed_piecewise(x, found, 4) - x).square().mean()


def test_the_network_with_printed_quantizers_runs_and_differs_from_the_integer_one() -> None:
    network = CalibratedNetwork.make(load(TINY), pictures())
    allocation = with_quantizers(network.calibration, uniform(network.sites, 4, 4), "piecewise")
    ranges = moving_ranges(network.calibration, pictures())
    x = torch.rand(1, 3, 16, 16) * network.model.white
    with torch.no_grad():
        shown = as_printed(network.calibration, allocation, ranges)(x)
        assert shown.shape == network.calibration.graph(x).shape
        assert not torch.equal(shown, Twin(network.calibration, allocation)(x))
