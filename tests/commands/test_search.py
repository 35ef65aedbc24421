"""The search command keeps within what a target's kernels take."""

from qsearch.allocation import Site
from qsearch.commands.search import within
from qsearch.target import Limits


def test_sites_keep_within_the_targets_bits_and_fixed_sites_stay() -> None:
    sites = [Site(name="head.input", kind="input", choices=(8,)), Site(name="body.weight", kind="weight")]
    image, weight = within(sites, Limits(min_bits=4, max_bits=6))
    assert image.choices == (8,), "the uint8 image"
    assert weight.choices == (4, 5, 6)
