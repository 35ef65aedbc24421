"""Each level may have the ranges of its own patches."""

import numpy as np
import pytest

from qsearch.allocation import uniform
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.patches import (
    Constant,
    EdgeRule,
    Layout,
    Level,
    OwnRanges,
    PatchNetwork,
    PatchStatistics,
    gather,
    levels_of,
    merge,
)
from tests.patches.networks import textures, tiny
from tests.random_programs import reference

LAYOUT, RULE = Layout(16), EdgeRule((2000,))


def test_patches_of_a_level_are_found() -> None:
    images = [textures(), textures()]
    patches = [LAYOUT.split(*image.shape[:2]) for image in images]
    own = OwnRanges(tiny(), images, LAYOUT)
    decided = [RULE.decide(*both) for both in zip(images, patches, strict=True)]
    parts = [gather(*both) for both in zip(images, patches, strict=True)]
    flat = [parts[number][index] for number, index in own.places if decided[number].levels[index] == 1]
    assert len(flat) == 10
    assert all((patch == 90).all() for patch in flat)
    found, wanted = own.of(1, RULE), PatchStatistics.record(tiny(), flat).calibrated()
    ranges = [{site: (s.lo, s.hi) for site, s in one.calibration.stats.items()} for one in (found, wanted)]
    assert ranges[0] == ranges[1]
    with pytest.raises(QsearchError, match="a level without patches"):
        OwnRanges(tiny(), images[:1], LAYOUT).of(1, Constant())


def test_ranges_of_dark_patches_give_them_finer_steps() -> None:
    network = tiny()
    random = np.random.default_rng(0)
    dark = list(random.integers(0, 40, (12, 16, 16, 3), np.uint8))
    own, allocation = PatchStatistics.record(network, dark[:8]).calibrated(), uniform(network.sites, 8, 4)
    errors = []
    for calibrated in (network, own):
        host = HostNetwork(calibrated.program(allocation))
        differences = [host.run(patch).astype(float) - network.model.run(patch) for patch in dark[8:]]
        errors.append(np.mean(np.square(differences)))
    assert errors[1] < 0.7 * errors[0]
    assert [site.name for site in own.sites] == [site.name for site in network.sites]
    again = PatchStatistics.record(network, dark[:8]).calibrated()
    assert all(
        np.array_equal(again.calibration.stats[s].counts, own.calibration.stats[s].counts)
        for s in again.calibration.stats
    )


def test_a_level_runs_with_its_own_ranges() -> None:
    network, image = tiny(), textures()
    high, low = levels_of(network, "8-4")
    flat = OwnRanges(network, [image], LAYOUT).of(1, RULE)
    levels = [high, Level("4", low.allocation, calibrated=flat)]
    result = PatchNetwork(network, levels, LAYOUT, RULE).run(image)
    patches = LAYOUT.split(48, 48)
    programs = [network.program(high.allocation), flat.program(low.allocation)]
    parts = [
        reference(programs[report.level], image[patch.input.slices])
        for report, patch in zip(result.patches, patches, strict=True)
    ]
    assert np.array_equal(result.image, merge(parts, patches, 48, 48, 2))


def test_no_patches_are_refused() -> None:
    with pytest.raises(QsearchError, match="a level without patches"):
        PatchStatistics.record(tiny(), [textures(16, 16)]).calibrated([])
