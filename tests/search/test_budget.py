"""Budgets as a person types them."""

import pytest

from qsearch.errors import QsearchError
from qsearch.search import Budget, parse_budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("200", Budget(trials=200)),
        ("90s", Budget(seconds=90)),
        ("10m", Budget(seconds=600)),
        ("1h30m", Budget(seconds=5400)),
        ("0.5h", Budget(seconds=1800)),
    ],
)
def test_budgets(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "ten", "10 m", "-5", "0", "5x", "1h30", "0m"])
def test_bad_budgets(text: str) -> None:
    with pytest.raises(QsearchError, match="budget"):
        parse_budget(text)
