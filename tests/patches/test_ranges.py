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
    PatchNetwork,
    levels_of,
    merge,
    patches_at,
    recalibrated,
)
from tests.patches.networks import textures, tiny
from tests.random_programs import reference

LAYOUT, RULE = Layout(16), EdgeRule((2000,))


def test_patches_of_a_level_are_found() -> None:
    flat = patches_at(1, RULE, [textures(), textures()], LAYOUT)
    assert len(flat) == 10
    assert all((patch == 90).all() for patch in flat)
    assert patches_at(1, Constant(), [textures()], LAYOUT) == []


def test_ranges_of_dark_patches_give_them_finer_steps() -> None:
    network = tiny()
    random = np.random.default_rng(0)
    dark = list(random.integers(0, 40, (12, 16, 16, 3), np.uint8))
    own, allocation = recalibrated(network, dark[:8]), uniform(network.sites, 8, 4)
    errors = []
    for calibrated in (network, own):
        host = HostNetwork(calibrated.program(allocation))
        differences = [host.run(patch).astype(float) - network.model.run(patch) for patch in dark[8:]]
        errors.append(np.mean(np.square(differences)))
    assert errors[1] < 0.7 * errors[0]
    assert [site.name for site in own.sites] == [site.name for site in network.sites]
    again = recalibrated(network, dark[:8])
    assert all(
        np.array_equal(again.calibration.stats[s].counts, own.calibration.stats[s].counts)
        for s in again.calibration.stats
    )


def test_a_level_runs_with_its_own_ranges() -> None:
    network, image = tiny(), textures()
    high, low = levels_of(network, "8-4")
    flat = recalibrated(network, patches_at(1, RULE, [image], LAYOUT))
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
        recalibrated(tiny(), [])
