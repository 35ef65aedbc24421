"""Costs come from the network's own graph and agree with published counts."""

import runpy
from pathlib import Path

import pytest
import torch
from torch import nn

from qsearch.allocation import uniform
from qsearch.cost import bitops, float_bitops, layers, live_maps, peak_bytes, weight_bytes
from qsearch.integer.lowering import lower
from qsearch.models import build
from qsearch.models.srresnet import SRResNet
from qsearch.passes import prepare, sites
from qsearch.quant import calibrate
from tests.small_networks import SmallNetwork, random_images, randomized

TABLE2 = runpy.run_path(str(Path(__file__).parents[2] / "results" / "fqsr-table2" / "run.py"))


@pytest.mark.parametrize("row", TABLE2["ROWS"], ids=lambda row: f"{row.name} x{row.upscale}")
def test_every_cell_of_fqsr_table_2(row: object) -> None:
    counted = TABLE2["count"](row)
    assert counted.ops_error < TABLE2["LIMIT"]
    assert counted.memory_error < TABLE2["LIMIT"]


@pytest.mark.parametrize(("upscale", "size", "gmac"), [(2, (678, 1020), 997.041416), (4, (339, 510), 383.500449)])
def test_macs_of_srresnet_are_exact(upscale: int, size: tuple[int, int], gmac: float) -> None:
    found = layers(TABLE2["graph_of"](upscale, 16, 9), *size)
    assert round(sum(layer.macs for layer in found) / 1e9, 6) == gmac


@pytest.mark.parametrize(
    ("model", "size", "percent"),
    [
        ("srresnet_r16_x2", (678, 1020), 15.62),
        ("srresnet_r16_x4", (339, 510), 45.16),
        ("edsr_r16f64_x2", (678, 1020), 11.37),
        ("edsr_r16f64_x4", (339, 510), 38.66),
    ],
)
def test_share_of_head_and_upsampling(model: str, size: tuple[int, int], percent: float) -> None:
    found = layers(prepare(build(model).module), *size)
    body = sum(layer.macs for layer in found if layer.name.startswith(("blocks.", "tail")))
    assert 100 * (1 - body / sum(layer.macs for layer in found)) == pytest.approx(percent, abs=0.01)


@pytest.mark.parametrize(("model", "gmac"), [("carn_m_x4", 32.5), ("carn_x4", 90.9), ("imdn_lite_x4", 40.9)])
def test_groups_and_joined_values_count_as_their_papers_do(model: str, gmac: float) -> None:
    """Multiplications for an image of 1280×720 at ×4; the attention that is left out is a thousandth of IMDN."""
    found = layers(prepare(build(model).module), 180, 320)
    assert sum(layer.macs for layer in found) / 1e9 == pytest.approx(gmac, abs=0.05)


def test_bitops_and_bytes_of_a_uniform_allocation() -> None:
    graph = prepare(randomized(SmallNetwork()))
    found = layers(graph, 20, 30)
    macs = sum(layer.macs for layer in found)
    image = next(layer for layer in found if layer.name == "head").macs
    fixed = sum(layer.macs for layer in found if layer.identity)
    allocation = uniform(sites(graph), 4, 6)
    expected = 24 * (macs - image - fixed) + 4 * 8 * image + 8 * 8 * fixed
    assert bitops(found, allocation) == expected
    assert float_bitops(found) == macs * 1024
    heavy, light = (weight_bytes(found, uniform(sites(graph), bits, 8)) for bits in (8, 4))
    assert heavy - light == sum(-(-layer.weights // 2) for layer in found if not layer.identity)


def test_peak_bytes_counts_the_live_tensors() -> None:
    """Two convolutions: the image and the first map, then the first map and the result."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))
    calibration = calibrate(prepare(randomized(model)), random_images(), 1.0)
    program = lower(calibration, uniform(sites(calibration.graph), 8, 8))
    assert peak_bytes(program, 10, 20) == 10 * 20 * (8 + 12)


def test_live_maps_of_srresnet_are_trunk_short_and_long_skip() -> None:
    assert live_maps(prepare(SRResNet(4, blocks=3).eval())) == 3


def test_layers_does_no_arithmetic() -> None:
    graph = prepare(SRResNet(4, blocks=2).eval())
    assert layers(graph, 5000, 5000)[0].out_values == 64 * 5000 * 5000
    assert next(graph.parameters()).device == torch.device("cpu")
