"""The twin for training, what its quantizers change, and FQSR's own levels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qsearch.allocation import uniform
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.quant.changes import measure_changes, total_change
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.free import FloatTwin, FreeTwin
from qsearch.quant.grid import Grid
from qsearch.quant.lattice import LatticeQuantizer
from qsearch.quant.odd import OddTwin, odd_levels
from qsearch.quant.twin import Twin
from qsearch.training.start import calibrated_start, maximum_start
from tests.small_networks import random_images
from tests.tiny import TINY


@pytest.fixture(scope="module")
def network() -> CalibratedNetwork:
    return CalibratedNetwork.make(load(TINY), random_images())


def image(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(random_images(1, seed=seed)[0]).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("bits", [3, 8])
def test_it_starts_as_the_twin_it_is_made_of(network: CalibratedNetwork, bits: int) -> None:
    wanted = uniform(network.sites, bits, bits)
    start = calibrated_start(network.calibration, wanted)
    free = FreeTwin(network.calibration, wanted, start)
    torch.testing.assert_close(free(image()), Twin(network.calibration, wanted)(image()), rtol=1e-5, atol=1e-5)
    assert free.finetuned().grids == start.grids
    for name, weight in free.finetuned().weights.items():
        assert torch.equal(weight.values, start.weights[name].values), name


def test_a_weight_moves_any_number_of_steps(network: CalibratedNetwork) -> None:
    wanted = uniform(network.sites, 4, 4)
    start = calibrated_start(network.calibration, wanted)
    free = FreeTwin(network.calibration, wanted, start)
    conv = free.free_convolutions()[1]
    with torch.no_grad():
        conv.moved.sub_(10.0)
    assert (free.finetuned().weights[conv.conv.name].values == -7).all()


def mean(change: torch.Tensor) -> float:
    return float(change.detach().abs().mean())


def test_the_calibration_loss_is_what_quantizers_change(network: CalibratedNetwork) -> None:
    wanted = uniform(network.sites, 4, 4)
    free = FreeTwin(network.calibration, wanted, calibrated_start(network.calibration, wanted))
    seen: list[float] = []
    stats = {free.sites[site]: stats for site, stats in network.calibration.stats.items() if site in free.sites}
    for target, of_site in stats.items():
        unit = float(np.sqrt(np.average(of_site.centers**2, weights=of_site.counts)))
        free.graph.get_submodule(target).register_forward_hook(
            lambda _, given, shown, unit=unit: seen.append(float((shown - given[0]).detach().abs().mean()) / unit)
        )
    measure_changes(free)
    free(image())
    weights = [
        float(((conv.weight() - conv.weight_grid().dequantize()) / conv.unit).detach().abs().mean())
        / conv.float_weight[0].numel() ** 0.5
        for conv in free.free_convolutions()
    ]
    assert float(total_change(free).detach()) == pytest.approx(sum(seen) + sum(weights), rel=1e-5)
    total_change(free).backward()  # type: ignore[no-untyped-call]
    for parameter in (free.free_convolutions()[0].moved, free.free_convolutions()[0].log_scale):
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) > 0


@pytest.mark.parametrize("grid", [Grid(0.5, 3, 0, 15), Grid(0.25, 0, 0, 7)])
def test_a_measured_change_has_the_gradients_of_its_formula(grid: Grid) -> None:
    """Against autograd on the same value written out, rounding passed straight through."""
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 4
    first, second = x.clone().requires_grad_(True), x.clone().requires_grad_(True)
    quantizer = LatticeQuantizer(grid)
    quantizer.unit = 2.0
    weight = torch.linspace(-1, 1, 50)
    y = quantizer(first)
    assert quantizer.change is not None
    ((y * weight).sum() + 14 * quantizer.change).backward()  # type: ignore[no-untyped-call]
    log = torch.zeros((), requires_grad=True)
    scale = grid.scale * log.exp()
    steps = (second / scale).clamp(grid.lo - grid.zero_point, grid.hi - grid.zero_point)
    shown = (steps + (torch.round(steps) - steps).detach()) * scale
    ((shown * weight).sum() + 7 * (shown - second).abs().mean()).backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None
    torch.testing.assert_close(first.grad, second.grad)
    torch.testing.assert_close(quantizer.log_bounds.grad, log.grad, rtol=1e-4, atol=1e-4)


def test_the_first_intervals_reach_to_the_mean_of_the_maxima(network: CalibratedNetwork) -> None:
    wanted = uniform(network.sites, 8, 8)
    batches = [image(seed) for seed in range(3)]
    start = maximum_start(network.calibration, wanted, batches)
    relu = network.calibration.graph.get_submodule("conv1")
    largest: list[float] = []
    relu.register_forward_hook(lambda _, __, output: largest.append(float(output.max())))
    for batch in batches:
        network.calibration.graph(batch)
    assert start.grids["conv2.input"].scale == pytest.approx(np.mean(largest) / 255, rel=1e-6)
    assert start.weights["conv2"].values.equal(calibrated_start(network.calibration, wanted).weights["conv2"].values)
    assert isinstance(start, FineTuned)


@given(bits=st.integers(2, 8), interval=st.floats(0.1, 50))
def test_signed_levels_are_odd_and_none_is_zero(bits: int, interval: float) -> None:
    x = torch.linspace(-1.5 * interval, 1.5 * interval, 5001)
    levels = odd_levels(x, torch.tensor(interval), bits, True)
    codes = torch.unique(torch.round(levels / interval * (2**bits - 1)).int())
    assert codes.tolist() == list(range(-(2**bits - 1), 2**bits, 2))
    unsigned = odd_levels(x, torch.tensor(interval), bits, False)
    assert len(torch.unique(torch.round(unsigned / interval * (2**bits - 1)))) == 2**bits
    assert float(unsigned.min()) == 0


def test_gradients_of_the_interval_are_fqsrs() -> None:
    for value, expected in ((3.0, 0.05), (30.0, 1.0), (-30.0, -1.0)):
        interval = torch.tensor(20.0, requires_grad=True)
        x = torch.tensor(value, requires_grad=True)
        odd_levels(x, interval, 4, True).backward()  # type: ignore[no-untyped-call]
        assert interval.grad is not None
        assert x.grad is not None
        assert float(interval.grad) == pytest.approx(expected, abs=1e-6)
        assert float(x.grad) == pytest.approx(1.0 if abs(value) < 20 else 0.0)


def test_with_fqsrs_levels_the_border_is_the_level_next_to_zero(network: CalibratedNetwork) -> None:
    wanted = uniform(network.sites, 4, 4)
    twin = OddTwin(network.calibration, wanted, calibrated_start(network.calibration, wanted))
    conv = next(conv for conv in twin.free_convolutions() if conv.conv.name == "conv1")
    quantizer = conv.reads[0]
    zero = quantizer(torch.zeros(()))
    assert float(zero) > 0  # round(7.5) is 8
    values = torch.randn(1, 8, 5, 6)
    framed = torch.nn.functional.pad(values, (1, 1, 1, 1))
    weight, bias = conv.quantized_weight(), conv.bias()
    expected = torch.nn.functional.conv2d(quantizer(framed), weight, bias)
    torch.testing.assert_close(conv.sums(quantizer(values)), expected)


def test_without_quantizers_it_starts_as_the_float_network(network: CalibratedNetwork) -> None:
    wanted = uniform(network.sites, 2, 2)
    twin = FloatTwin(network.calibration, wanted, calibrated_start(network.calibration, wanted))
    torch.testing.assert_close(twin(image()), network.model.module(image()), rtol=1e-4, atol=1e-4)
