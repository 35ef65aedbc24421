"""Objectives as a person types them, figures as a person reads them."""

import pytest

from qsearch.errors import QsearchError
from qsearch.search import human, parse_objectives


@pytest.mark.parametrize("text", ["psnr", "bitops", "psnr_y_db", "psnr_y_db,bitops,bitops", "bitops,weight_bytes", ""])
def test_bad_objectives(text: str) -> None:
    with pytest.raises(QsearchError, match="objective"):
        parse_objectives(text)


def test_figures_are_readable() -> None:
    shown = [
        human("psnr_y_db", 31.4249),
        human("latency_ms", 12.345),
        human("bitops", 4.81e10),
        human("weight_bytes", 212000),
    ]
    assert shown == ["31.425 dB", "12.3 ms", "48.1 G", "212 kB"]
