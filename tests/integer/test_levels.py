"""One program of several allocations: every pixel is computed at its own level, and reads its neighbours as its own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qsearch.allocation import Allocation, SiteAllocation, uniform
from qsearch.compile.host_levels import LevelNetwork
from qsearch.errors import QsearchError
from qsearch.integer import ops
from qsearch.integer.levels import Version, lower_levels
from qsearch.integer.lowering import lower
from qsearch.integer.onnx_export import export_onnx
from qsearch.integer.storage import load_program, run_image, run_levels, save_program
from qsearch.passes import sites
from qsearch.quant import Calibration
from tests.integer.test_lowering import CALIBRATIONS, calibrated
from tests.patches.networks import joined, tiny
from tests.small_networks import random_images

COMPILED = {
    "prelu": CALIBRATIONS[0],
    "leaky": CALIBRATIONS[1],
    "anchor": CALIBRATIONS[2],
    "joined": joined().calibration,
}
"""PReLU behind shuffles, skips, repeated channels, a clipped result and joined values."""


def piecewise(calibration: Calibration, bits: int) -> Version:
    """Weights of `bits`, piecewise quantizers of `bits` where a site allows them, and skips of 8."""
    allocation = uniform(sites(calibration.graph), bits, bits)
    changed = {
        name: site if name.endswith(".weight") or site.bits == 8 else SiteAllocation(bits=bits, quantizer="piecewise")
        for name, site in allocation.sites.items()
    }
    return Version(calibration, Allocation(sites=changed))


def cases() -> dict[str, list[Version]]:
    found = {}
    for name, calibration in COMPILED.items():
        eight, four = (Version(calibration, uniform(sites(calibration.graph), bits, bits)) for bits in (8, 4))
        found[name] = [eight, four, piecewise(calibration, 3)] if name == "prelu" else [eight, four]
    return found


def level_maps(height: int, width: int, levels: int, seed: int = 0) -> list[np.ndarray]:
    """Pixel by pixel, in patches, and each level alone."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, levels, (height, width), np.uint8)
    patches = random.integers(0, levels, (-(-height // 6), -(-width // 6)), np.uint8)
    whole = [np.full((height, width), level, np.uint8) for level in range(levels)]
    return [pixels, patches.repeat(6, 0).repeat(6, 1)[:height, :width].copy(), *whole]


def by_hand(all_versions: list[Version], image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The program with every level's part run on the whole image, and the values chosen outside of it."""
    program = lower_levels(all_versions)

    class Chosen(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> torch.Tensor:
            if n.target is not ops.by_level:
                value: torch.Tensor = super().run_node(n)
                return value
            parts, _ = self.fetch_args_kwargs_from_env(n)[0]
            stacked = np.stack([part.numpy() for part in parts])
            factor = stacked.shape[3] // levels.shape[0]
            chosen = levels.repeat(factor, 0).repeat(factor, 1)[None, None, None].astype(np.int64)
            return torch.from_numpy(np.take_along_axis(stacked, np.broadcast_to(chosen, stacked[:1].shape), 0)[0])

    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    result = Chosen(program).run(planes, torch.from_numpy(levels)[None, None])
    return np.asarray(result[0].permute(1, 2, 0))


@pytest.mark.parametrize("name", COMPILED)
def test_kernels_give_the_bytes_of_the_reference(name: str) -> None:
    case = cases()[name]
    program = lower_levels(case)
    network = LevelNetwork(program)
    for size in ((1, 1), (13, 20), (7, 1)):
        image = random_images(1, *size, seed=7)[0]
        for levels in level_maps(*size, len(case)):
            expected = run_levels(program, image, levels)
            assert np.array_equal(network.run_levels(image, levels), expected)
            assert np.array_equal(by_hand(case, image, levels), expected)


@pytest.mark.parametrize("name", COMPILED)
def test_all_pixels_at_one_level_have_the_bytes_of_its_own_program(name: str) -> None:
    case = cases()[name]
    program, image = lower_levels(case), random_images(1, 17, 22, seed=3)[0]
    for level, version in enumerate(case):
        expected = run_image(lower(version.calibration, version.allocation), image)
        assert np.array_equal(run_levels(program, image, np.full((17, 22), level, np.uint8)), expected)


def test_far_from_another_level_nothing_changes_and_beside_it_something_does() -> None:
    calibration = tiny().calibration
    found = sites(calibration.graph)
    case = [Version(calibration, uniform(found, bits, bits)) for bits in (8, 3)]
    network, image = LevelNetwork(lower_levels(case)), random_images(1, 24, 60, seed=1)[0]
    levels = np.zeros((24, 60), np.uint8)
    levels[:, 30:] = 1
    mixed, halo = network.run_levels(image, levels), network.plan.halo
    high, low = (run_image(lower(calibration, version.allocation), image) for version in case)
    assert halo < 30
    assert np.array_equal(mixed[:, : 2 * (30 - halo)], high[:, : 2 * (30 - halo)])
    assert np.array_equal(mixed[:, 2 * (30 + halo) :], low[:, 2 * (30 + halo) :])
    near = np.s_[:, 2 * 29 : 2 * 30]
    assert not np.array_equal(mixed[near], high[near]), "a high pixel reads its low neighbours"


def test_a_value_is_stored_once_for_every_grid() -> None:
    """The residual stream, 8 bits at both levels, is one buffer; only what convolutions read is written for each."""
    calibration = CALIBRATIONS[1]
    found = sites(calibration.graph)
    eight, four = (Version(calibration, uniform(found, bits, bits)) for bits in (8, 4))
    count = {
        name: sum(node.target is ops.by_level for node in lower_levels(case).graph.nodes)
        for name, case in {"one": [eight], "twice": [eight, eight], "both": [eight, four]}.items()
    }
    assert count["twice"] == count["one"]
    assert count["one"] < count["both"] < 2 * count["one"]


def test_stored_programs_are_the_same(tmp_path: Path) -> None:
    calibration = CALIBRATIONS[0]
    case = [Version(calibration, uniform(sites(calibration.graph), bits, bits)) for bits in (6, 4)]
    program, image = lower_levels(case), random_images(1, 9, 13)[0]
    save_program(program, tmp_path)
    levels = level_maps(9, 13, 2)[0]
    again = load_program(tmp_path)
    assert np.array_equal(run_levels(again, image, levels), run_levels(program, image, levels))
    assert np.array_equal(LevelNetwork(again).run_levels(image, levels), run_levels(program, image, levels))


class Strided(nn.Module):
    """Half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Conv2d(3, 12, 3, padding=1, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pixel_shuffle(self.only(x), 2)


def test_what_cannot_be_is_refused() -> None:
    calibration = CALIBRATIONS[0]
    version = Version(calibration, uniform(sites(calibration.graph), 8, 8))
    other = Version(CALIBRATIONS[2], uniform(sites(CALIBRATIONS[2].graph), 8, 8))
    with pytest.raises(QsearchError, match="at least one allocation"):
        lower_levels([])
    with pytest.raises(QsearchError, match="of one calibrated network"):
        lower_levels([version, other])
    strided = calibrated(Strided())
    with pytest.raises(QsearchError, match="convolution only changes the image's size"):
        lower_levels([Version(strided, uniform(sites(strided.graph), 8, 8))])
    network, image = LevelNetwork(lower_levels([version])), random_images(1, 8, 9)[0]
    with pytest.raises(QsearchError, match="levels must be uint8"):
        network.run_levels(image, np.zeros((9, 8), np.uint8))
    with pytest.raises(QsearchError, match="but there are 1 allocations"):
        network.run_levels(image, np.ones((8, 9), np.uint8))
    with pytest.raises(QsearchError, match="has no ONNX form"):
        export_onnx(lower_levels([version]))
