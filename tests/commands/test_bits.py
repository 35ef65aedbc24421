"""Bits as the command line takes them."""

import pytest

from qsearch.allocation import Site
from qsearch.commands.quantize import parse_bits
from qsearch.errors import QsearchError

SITES = [
    Site(name="head.weight", kind="weight"),
    Site(name="head.input", kind="input", choices=(8,)),
    Site(name="tail.weight", kind="weight"),
    Site(name="tail.input", kind="input"),
    Site(name="tail.skip", kind="skip"),
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("w4a6", [4, 8, 4, 6, 8]), ("fqsr-4-6-8", [4, 8, 4, 6, 8]), ("fqsr-6-6-4", [6, 8, 6, 6, 4])],
)
def test_weights_inputs_and_skips(text: str, expected: list[int]) -> None:
    allocation = parse_bits(text, SITES)
    assert [allocation.bits(site.name) for site in SITES] == expected


@pytest.mark.parametrize("text", ["w1a8", "w4", "fqsr-4-4", "fqsr-4-4-9", "fqsr-4-4-8-8", "4-4-8"])
def test_other_bits_are_refused(text: str) -> None:
    with pytest.raises(QsearchError, match="not of the form w4a8 or fqsr-4-4-8 with 2 to 8 bits"):
        parse_bits(text, SITES)
