"""Per-patch execution on the compiled kernels: bytes, batches, decisions and cost of one image."""

import numpy as np
import pytest

from qsearch import cost
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.patches import (
    Classifier,
    ClustBlock,
    Clustering,
    Constant,
    EdgeRule,
    Layout,
    PatchNetwork,
    gather,
    levels_of,
    merge,
)
from tests.patches.networks import textures, tiny
from tests.random_programs import reference
from tests.small_networks import random_images

LAYOUT = Layout(16, 4)
RULE = EdgeRule((2000,))


def classifier() -> Classifier:
    """Random weights serve, where it only matters that it decides."""
    return Classifier.freeze(ClustBlock(3).eval(), random_images(4, 16, 16))


def test_one_level_with_the_halo_gives_the_bytes_of_the_whole_image() -> None:
    network, image = tiny(), random_images(1, 45, 53, seed=3)[0]
    levels = levels_of(network, "6")
    halo = PatchNetwork(network, levels, LAYOUT, Constant()).halo
    patched = PatchNetwork(network, levels, Layout.exact(8, halo), Constant()).run(image)
    whole = HostNetwork(network.program(levels[0].allocation)).run(image)
    assert np.array_equal(patched.image, whole)
    uniform = cost.bitops(network.layers((45, 53)), levels[0].allocation)
    assert patched.bitops > uniform, "the overlap is paid"
    assert patched.overwork > 1


@pytest.mark.parametrize("layout", [LAYOUT, Layout(16, 6, "average")])
def test_every_patch_has_the_bytes_of_its_level(layout: Layout) -> None:
    """The integer reference, patch by patch, merged."""
    network, image = tiny(), textures(40, 53)
    levels = levels_of(network, "8-3")
    result = PatchNetwork(network, levels, layout, RULE).run(image)
    programs = [network.program(level.allocation) for level in levels]
    patches = layout.split(40, 53)
    expected = [
        reference(programs[report.level], part)
        for report, part in zip(result.patches, gather(image, patches), strict=True)
    ]
    assert {report.bits for report in result.patches} == {"8", "3"}
    assert np.array_equal(result.image, merge(expected, patches, 40, 53, 2))


def test_bitops_count_every_patch_and_the_decisions() -> None:
    network, image = tiny(), textures()
    levels = levels_of(network, "8-4")
    result = PatchNetwork(network, levels, Layout(16), RULE).run(image)
    layers = network.layers((16, 16))
    high, low = (cost.bitops(layers, level.allocation) for level in levels)
    assert [report.level for report in result.patches] == [1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert result.decision_bitops == 48 * 48 * 8 * 64
    assert result.bitops == 4 * high + 5 * low + result.decision_bitops
    assert result.overwork == 1


def test_references_and_queries_are_reported() -> None:
    network, image = tiny(), textures()
    result = PatchNetwork(network, levels_of(network, "8-4"), Layout(16), Clustering(classifier())).run(image)
    for number, report in enumerate(result.patches):
        assert (report.reference == number) == (report.bits == "8")
        assert report.reference is not None
        assert result.patches[report.reference].cluster == report.cluster


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (16, 16), (17, 16)])
@pytest.mark.parametrize("grey", [True, False])
def test_images_of_any_size(size: tuple[int, int], grey: bool) -> None:
    network = tiny()
    image = np.full((*size, 3), 128, np.uint8) if grey else random_images(1, *size)[0]
    patched = PatchNetwork(network, levels_of(network, "8-4"), LAYOUT, Clustering(classifier()))
    assert patched.run(image).image.shape == (2 * size[0], 2 * size[1], 3)


def test_three_levels() -> None:
    network = tiny()
    rule = EdgeRule.calibrate(random_images(3, 48, 48), Layout(16), [0.3, 0.3])
    result = PatchNetwork(network, levels_of(network, "8-6-4"), Layout(16), rule).run(random_images(1, 48, 48)[0])
    assert {report.bits for report in result.patches} <= {"8", "6", "4"}


def test_mistakes_are_said_in_one_line() -> None:
    network = tiny()
    with pytest.raises(QsearchError, match="not of the form 8-4"):
        levels_of(network, "9-4")
    with pytest.raises(QsearchError, match="at least one allocation"):
        PatchNetwork(network, [], LAYOUT, Constant())
    with pytest.raises(QsearchError, match="but there are 1 allocations"):
        PatchNetwork(network, levels_of(network, "8"), LAYOUT, Constant(1)).run(textures())
