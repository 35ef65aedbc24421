"""Calibration: works on odd pictures, refuses impossible ones, and never clips white."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from qsearch import samples
from qsearch.allocation import SiteAllocation, uniform
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.passes import prepare, sites
from qsearch.quant import OBSERVERS, Calibration, calibrate
from tests import tiny
from tests.small_networks import SmallAnchor, SmallNetwork, random_images, randomized

Image = NDArray[np.uint8]


def test_no_images_and_small_images_are_refused() -> None:
    graph = prepare(randomized(SmallAnchor()))
    with pytest.raises(QsearchError, match="at least one low-resolution image"):
        calibrate(graph, [], 1.0)
    with pytest.raises(QsearchError, match="40x15 pixels is too small: at least 16x16"):
        calibrate(graph, [*random_images(1), *random_images(1, 15, 40)], 1.0)


def test_a_network_that_overflows_names_the_site() -> None:
    with pytest.raises(QsearchError, match=r"site \w+\.(input|skip): .*NaN or infinity"):
        calibrate(prepare(tiny.overflowing().eval()), random_images(1), 1.0)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_pictures_of_one_colour_work(level: int) -> None:
    calibration = calibrate(prepare(randomized(SmallNetwork())), [np.full((20, 24, 3), level, np.uint8)], 1.0)
    for site in sites(calibration.graph):
        if site.kind != "weight":
            for bits in (2, 8):
                grid = calibration.grid(site.name, SiteAllocation(bits=bits))
                assert np.isfinite(grid.scale)
                assert grid.scale > 0


def test_the_same_images_and_seed_give_the_same_statistics() -> None:
    model = randomized(SmallAnchor())
    first, second = (calibrate(prepare(model), random_images(), 1.0, seed=3) for _ in range(2))
    for site, stats in first.stats.items():
        assert (stats.lo, stats.hi) == (second.stats[site].lo, second.stats[site].hi)
        assert np.array_equal(stats.counts, second.stats[site].counts)


@pytest.mark.parametrize("make", [SmallNetwork, SmallAnchor])
def test_what_was_saved_gives_the_same_grids(tmp_path: Path, make: type) -> None:
    model = randomized(make())
    calibration = calibrate(prepare(model), random_images(), 1.0)
    calibration.save(tmp_path / "calibration.safetensors")
    again = Calibration.load(tmp_path / "calibration.safetensors", prepare(model))
    assert again.white == calibration.white
    for site in sites(calibration.graph):
        for observer in OBSERVERS:
            for bits in (2, 4, 8):
                setting = SiteAllocation(bits=bits, observer=observer)
                assert again.grid(site.name, setting) == calibration.grid(site.name, setting)
    state = again.graph.state_dict()
    assert all(np.array_equal(value, state[name]) for name, value in calibration.graph.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "calibration.safetensors"
    path.write_bytes(content)
    with pytest.raises(QsearchError, match="holds no calibration"):
        Calibration.load(path, prepare(randomized(SmallAnchor())))


def darkened(images: list[Image]) -> list[Image]:
    return [(image * 0.5).astype(np.uint8) for image in images]


def brightened(image: Image) -> Image:
    """Contrast halved and moved to the top: the mean near 200, the highlights at 255."""
    return np.clip(image * 0.6 + 110, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def dark_abpn() -> tuple[CalibratedNetwork, HostNetwork]:
    """ABPN calibrated on dark pictures alone, at 8 bits."""
    network = CalibratedNetwork.make(load("abpn_x3"), darkened(samples.calibration_images(3)))
    return network, HostNetwork(network.program(uniform(network.sites, 8, 8)))


def test_white_stays_white(dark_abpn: tuple[CalibratedNetwork, HostNetwork]) -> None:
    assert_white(*dark_abpn)


def test_bright_photographs_keep_their_colours(dark_abpn: tuple[CalibratedNetwork, HostNetwork]) -> None:
    network, host = dark_abpn
    for pair in samples.search_pairs(3):
        assert_unbiased(network, host, brightened(pair.lr))


def test_bright_photographs_keep_their_colours_in_a_published_network(shared_data: Path) -> None:
    model = load(shared_data / "weights" / "rnet9_x4.pt")
    dark = [image[:48, :48] for image in darkened(samples.calibration_images(4, 2))]
    network = CalibratedNetwork.make(model, dark)
    host = HostNetwork(network.program(uniform(network.sites, 8, 8)))
    for pair in samples.search_pairs(4, 2):
        assert_unbiased(network, host, brightened(pair.lr[:40, :40]))
    assert_white(network, host)


def assert_white(network: CalibratedNetwork, host: HostNetwork) -> None:
    """Every pixel within 2 grey levels; a few in the corners, where white meets the black padding twice, within 6."""
    white = np.full((40, 48, 3), 255, np.uint8)
    error = np.abs(host.run(white).astype(int) - network.model.run(white))
    inner = np.s_[16:-16, 16:-16]
    assert error[inner].max() <= 2
    assert np.mean(error > 2) < 1e-3
    assert error.max() <= 6


def assert_unbiased(network: CalibratedNetwork, host: HostNetwork, image: Image) -> None:
    """The mean signed error of each channel is within a grey level: a clipped range would darken a whole channel."""
    error = (host.run(image).astype(int) - network.model.run(image)).mean((0, 1))
    assert np.abs(error).max() <= 1.0, error
