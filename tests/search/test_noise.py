"""The additive model completes the sensitivities and learns from trials."""

import numpy as np
import pytest

from qsearch.allocation import Site, uniform
from qsearch.search.noise import NoiseModel, prior_table, squared_error
from qsearch.search.space import Space
from tests.search.toy import SITES, measure

SPACE = Space(SITES, uniform(SITES, 8, 8))


def random_bits(rng: np.random.Generator, space: Space = SPACE) -> np.ndarray:
    return np.array([rng.choice(site.choices) for site in space.sites])


def test_noise_between_and_beyond_measured_bits() -> None:
    site = Site(name="a.weight", kind="weight")
    other = Site(name="b.weight", kind="weight", choices=(2, 4))
    space = Space([site, other], uniform([site, other], 8, 8))
    table = prior_table(space, {("a.weight", 3): 64.0, ("a.weight", 5): 4.0, ("a.weight", 6): -0.1})
    assert table[0, :4] == pytest.approx([256.0, 64.0, 16.0, 4.0])
    assert np.all(np.diff(table[0]) < 0)
    assert np.all(table[0] > 0)
    assert table[1, [0, 2]] == pytest.approx(table[0, [0, 2]]), "an unmeasured site is like the others of its kind"
    assert np.isinf(table[1, 1])


def test_observations_sharpen_the_noise_model() -> None:
    rng = np.random.default_rng(1)
    base_error = float(squared_error(measure(SPACE.base)["psnr_y_db"]))
    added = {
        (name, 4): float(squared_error(measure(SPACE.base.replace({name: 4}))["psnr_y_db"])) - base_error
        for name in SPACE.names
    }
    model = NoiseModel(prior_table(SPACE, added), base_error)
    truth = [
        (bits, float(squared_error(measure(SPACE.allocation(bits))["psnr_y_db"])))
        for bits in (random_bits(rng) for _ in range(150))
    ]

    def wrong(rows: list[tuple[np.ndarray, float]]) -> float:
        return float(np.mean([abs(np.log(max(model.predict(bits), 1.0) / error)) for bits, error in rows]))

    before = wrong(truth[100:])
    for bits, error in truth[:100]:
        model.observe(bits, error)
    assert wrong(truth[100:]) < 0.5 * before
