"""The differentiable twin: the integer network's values, and gradients of rounding passed straight through."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from qsearch.allocation import Allocation, uniform
from qsearch.errors import QsearchError
from qsearch.integer import ops
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.passes.quantizers import Quantizer
from qsearch.quant.bias import correct_biases
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.grid import Codes, Grid
from qsearch.quant.lattice import LatticeQuantizer
from qsearch.quant.twin import Twin
from tests.tiny import TINY


def pictures(count: int = 3) -> list[NDArray[np.uint8]]:
    return [np.random.default_rng(i).integers(0, 256, (24 + i, 32, 3), np.uint8) for i in range(count)]


@pytest.fixture(scope="module")
def network() -> CalibratedNetwork:
    return CalibratedNetwork.make(load(TINY), pictures())


def allocation(network: CalibratedNetwork, bits: int, kind: str) -> Allocation:
    base = uniform(network.sites, bits, bits)
    free = {site.name for site in network.sites if site.kind != "weight" and len(site.choices) > 1}
    changed = {
        name: site.model_copy(update={"quantizer": kind}) if name in free and site.bits < 8 else site
        for name, site in base.sites.items()
    }
    return Allocation(sites=changed)


def moved(twin: Twin, seed: int = 0) -> Twin:
    """`twin` with every parameter elsewhere."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameters in twin.parameter_groups().values():
            for parameter in parameters:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return twin


def codes_of_program(program: torch.fx.GraphModule, image: Tensor) -> dict[tuple[float, int], list[Tensor]]:
    """What every requantization gives, by scale and zero point."""
    found: dict[tuple[float, int], list[Tensor]] = {}
    runner = torch.fx.Interpreter(program)
    run_node = runner.run_node

    def keep(node: torch.fx.Node) -> object:
        value = run_node(node)
        if node.target is ops.requantize:
            found.setdefault((node.meta["scale"], node.meta["zero_point"]), []).append(value)
        return value

    runner.run_node = keep  # type: ignore[method-assign]
    runner.run(image)
    return found


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("kind", ["uniform", "piecewise"])
@pytest.mark.parametrize("tuned", [False, True])
def test_sites_hold_the_codes_of_the_integer_network(
    network: CalibratedNetwork, bits: int, kind: str, tuned: bool
) -> None:
    """Up to the rounding of bias and skip factors in the integer network, which moves a code in a few hundred."""
    wanted = allocation(network, bits, kind)
    twin = Twin(network.calibration, wanted)
    finetuned = moved(twin).finetuned() if tuned else None
    program = network.program(wanted, finetuned)
    image = torch.from_numpy(pictures()[0]).permute(2, 0, 1)[None]
    integer = codes_of_program(program, image)
    compared = 0
    with torch.no_grad():
        shown = torch.fx.Interpreter(twin.graph)
        values = {}
        run_node = shown.run_node

        def keep(node: torch.fx.Node) -> object:
            values[node] = run_node(node)
            return values[node]

        shown.run_node = keep  # type: ignore[method-assign]
        result = shown.run(image.float() * (network.model.white / 255))
        for node, value in values.items():
            module = twin.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
            if not isinstance(module, LatticeQuantizer):
                continue
            grid = module.grid()
            code = torch.round(value / grid.scale) + grid.zero_point
            shares = [
                float((code == found.reshape(code.shape)).float().mean())
                for found in integer[grid.scale, grid.zero_point]
                if found.numel() == code.numel() and found.shape == code.shape
            ]
            if shares:
                compared += 1
                assert max(shares) > 0.97, module
    assert compared >= 3
    off = (program(image).float() - (result * (255 / network.model.white)).clamp(0, 255)).abs()
    assert float(off.mean()) < (0.55 if bits == 8 else 0.6)


@pytest.mark.parametrize("grid", [
    Grid(0.5, 3, 0, 15),
    Grid(0.25, 0, 0, 7),
    Grid(0.25, 9, 0, 27, (6, 12, 3)),
    Grid(0.25, 0, 0, 35, (0, 5, 6)),
])  # fmt: skip
def test_a_quantizer_shows_its_grid_whatever_its_parameters(grid: Grid) -> None:
    x = torch.linspace(-12, 12, 4001)
    quantizer = LatticeQuantizer(grid)
    assert quantizer.grid() == grid
    for bounds, breakpoint in ((0.0, 0.0), (0.7, -0.3), (-0.4, 0.5), (3.0, -3.0)):
        with torch.no_grad():
            quantizer.log_bounds.fill_(bounds)
            if quantizer.log_breakpoint is not None:
                quantizer.log_breakpoint.fill_(breakpoint)
            now = quantizer.grid()
            assert 0 <= now.lo <= now.zero_point <= now.hi <= 255
            assert Codes.of(now) == Codes.of(grid)
            reference = Quantizer("x")
            reference.scale, reference.bounds = torch.tensor(now.scale), torch.tensor(now.bounds, dtype=torch.float32)
            assert torch.equal(quantizer(x), reference(x))
            assert len(quantizer(x).unique()) <= 16


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.booleans())
def test_gradients_are_those_of_rounding_passed_straight_through(seed: int, ratio: int, signed: bool) -> None:
    """Against plain automatic differentiation of the same function, each rounding passing gradients."""
    below = 3 if signed else 0
    start = below * ratio
    grid = Grid(0.25, start + (4 if signed else 0), 0, start + 8 + 3 * ratio, (start, start + 8, ratio))
    x = torch.randn(500, generator=torch.Generator().manual_seed(seed)) * 3
    factor = torch.randn(500, generator=torch.Generator().manual_seed(seed + 1))
    quantizer = LatticeQuantizer(grid)
    own = x.clone().requires_grad_()
    (quantizer(own) * factor).sum().backward()

    bounds, breakpoint = (torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    other = x.double().requires_grad_()
    scale, r = 0.25 * (bounds + breakpoint).exp(), ratio * (-breakpoint).exp()
    low, high = (bound - grid.zero_point for bound in (start, start + 8))
    v = torch.minimum(torch.maximum(other / scale, low - below * r), high + 3 * r)
    shown = quantizer(x).double() / 0.25

    def passed(value: Tensor, to: Tensor) -> Tensor:
        return value + (to - value).detach()

    inside = v.clamp(low, high)
    parts = passed(inside, shown.clamp(low, high))
    parts = parts + r * passed((v - inside) / r, (shown - shown.clamp(low, high)) / ratio)
    (parts * scale * factor.double()).sum().backward()
    assert own.grad is not None
    assert other.grad is not None
    assert torch.equal(own.grad, other.grad.float())
    assert quantizer.log_bounds.grad is not None
    assert bounds.grad is not None
    torch.testing.assert_close(quantizer.log_bounds.grad.double(), bounds.grad, rtol=1e-3, atol=1e-3)
    # What lies between a breakpoint and the next outer value counts for the part that it is rounded to.
    rounded_across = ((x > high * 0.25) != (quantizer(x) > high * 0.25)) | (
        (x < low * 0.25) != (quantizer(x) < low * 0.25)
    )
    assert quantizer.log_breakpoint is not None
    assert quantizer.log_breakpoint.grad is not None
    assert breakpoint.grad is not None
    most = float((factor.abs() * rounded_across).sum()) * 0.25 * ratio
    assert abs(float(quantizer.log_breakpoint.grad) - float(breakpoint.grad)) <= most + 1e-3


def test_weights_start_at_those_of_calibration(network: CalibratedNetwork) -> None:
    wanted = allocation(network, 4, "uniform")
    for name, conv in Twin(network.calibration, wanted).convolutions().items():
        setting = wanted.sites[f"{name}.weight"]
        expected = network.calibration.weight(conv.conv, setting.bits, setting.observer)
        assert torch.equal(conv.weight_grid().values, expected.values), name
        assert torch.equal(conv.weight_grid().scale, expected.scale), name


def test_bias_correction_brings_the_means_back(network: CalibratedNetwork) -> None:
    twin = Twin(network.calibration, allocation(network, 3, "uniform"))
    images = torch.rand(2, 3, 24, 24) * network.model.white
    with torch.no_grad():
        wanted = network.calibration.graph(images).mean((0, 2, 3))
        before = (twin(images).mean((0, 2, 3)) - wanted).abs()
        correct_biases(twin, images)
        after = (twin(images).mean((0, 2, 3)) - wanted).abs()
    assert float(after.max()) < 1e-5 * network.model.white
    assert float(after.max()) < float(before.max())


def test_what_was_saved_makes_the_same_program(network: CalibratedNetwork, tmp_path: Path) -> None:
    wanted = allocation(network, 4, "piecewise")
    finetuned = moved(Twin(network.calibration, wanted)).finetuned()
    finetuned.save(tmp_path / "tuned.safetensors")
    loaded = FineTuned.load(tmp_path / "tuned.safetensors")
    assert loaded.grids == finetuned.grids
    image = torch.from_numpy(pictures()[1]).permute(2, 0, 1)[None]
    assert torch.equal(network.program(wanted, finetuned)(image), network.program(wanted, loaded)(image))
    again = Twin(network.calibration, wanted, loaded).finetuned()
    assert again.grids == loaded.grids
    for name, weight in loaded.weights.items():
        assert torch.equal(again.weights[name].values, weight.values), name


def test_parameters_of_something_else_are_refused(network: CalibratedNetwork, tmp_path: Path) -> None:
    finetuned = Twin(network.calibration, allocation(network, 4, "piecewise")).finetuned()
    with pytest.raises(QsearchError, match="another allocation"):
        network.program(allocation(network, 5, "piecewise"), finetuned)
    other = CalibratedNetwork.make(load(TINY), [np.full((24, 24, 3), 9, np.uint8)])
    with pytest.raises(QsearchError, match="another network or calibration"):
        other.program(finetuned.allocation, finetuned)
    (tmp_path / "no.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(QsearchError, match="holds no fine-tuned parameters"):
        FineTuned.load(tmp_path / "no.safetensors")
