"""Allocations: uniform ones, exact JSON, and clear words for what does not fit."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qsearch.allocation import Allocation, Site, SiteAllocation, uniform
from qsearch.errors import QsearchError

SITES = [
    Site(name="head.input", kind="input", choices=(8,)),
    Site(name="head.weight", kind="weight"),
    Site(name="tail.input", kind="input"),
    Site(name="tail.skip", kind="skip"),
    Site(name="tail.weight", kind="weight", choices=(4, 8)),
]
CHOICES = st.builds(
    SiteAllocation, bits=st.integers(2, 8), observer=st.sampled_from([None, "minmax", "percentile", "mse"])
) | st.builds(
    SiteAllocation,
    bits=st.integers(3, 5),
    quantizer=st.just("piecewise"),
    inside=st.none() | st.floats(0.01, 1.0),
    ratio=st.none() | st.integers(1, 8),
    span=st.sampled_from([None, 63, 255]),
)


def test_uniform_gives_every_kind_its_bits_and_leaves_fixed_sites() -> None:
    bits = {name: site.bits for name, site in uniform(SITES, 4, 6).sites.items()}
    assert bits == {"head.input": 8, "head.weight": 4, "tail.input": 6, "tail.skip": 8, "tail.weight": 4}


def test_uniform_bits_that_a_site_does_not_allow_become_its_largest() -> None:
    assert uniform(SITES, 3, 6).bits("tail.weight") == 8


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(min_size=1), CHOICES, max_size=6))
def test_json_brings_everything_back(tmp_path: Path, sites: dict[str, SiteAllocation]) -> None:
    allocation = Allocation(sites=sites)
    allocation.save(tmp_path / "allocation.json")
    assert Allocation.load(tmp_path / "allocation.json") == allocation


def test_replacing_bits_gives_another_allocation() -> None:
    before = uniform(SITES, 8, 8)
    after = before.replace({"tail.input": 3})
    assert (before.bits("tail.input"), after.bits("tail.input")) == (8, 3)
    assert after.sites.keys() == before.sites.keys()


def test_what_does_not_fit_is_named() -> None:
    uniform(SITES, 4, 4).check(SITES)
    with pytest.raises(QsearchError, match=r"lacks tail\.skip"):
        uniform(SITES[:3], 8, 8).check(SITES[:4])
    with pytest.raises(QsearchError, match=r"has unknown tail\.skip"):
        uniform(SITES[:4], 8, 8).check(SITES[:3])
    with pytest.raises(QsearchError, match=r"tail\.weight cannot have 5 bits: it allows \[4, 8\]"):
        uniform(SITES, 8, 8).replace({"tail.weight": 5}).check(SITES)
    with pytest.raises(QsearchError, match=r"no bits to site 'nose\.weight'"):
        uniform(SITES, 8, 8).bits("nose.weight")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bits": 5, "quantizer": "piecewise", "span": 15}, "span 15 does not hold 5 bits: give at least 31"),
        ({"bits": 4, "quantizer": "piecewise", "span": 31, "ratio": 18}, "ratio 18 does not fit .* at most 17"),
        ({"bits": 4, "inside": 0.9}, "inside is of piecewise quantizers only"),
        ({"bits": 4, "quantizer": "piecewise", "inside": 1.5}, "less than or equal to 1"),
    ],
)
def test_pieces_that_make_no_sense_are_named(tmp_path: Path, values: dict[str, object], words: str) -> None:
    (tmp_path / "allocation.json").write_text(json.dumps({"sites": {"a.input": values}}))
    with pytest.raises(QsearchError, match=f"a.input.*{words}"):
        Allocation.load(tmp_path / "allocation.json")


def test_what_is_left_to_calibration_is_not_written() -> None:
    text = Allocation(sites={"a": SiteAllocation(bits=4, quantizer="piecewise", span=31)}).to_json()
    assert json.loads(text)["sites"]["a"] == {"bits": 4, "quantizer": "piecewise", "span": 31}
