"""How long a search may go on: a number of finished trials or a time."""

import re
from dataclasses import dataclass

from qsearch.errors import QsearchError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True)
class Budget:
    """Either `trials` finished trials or `seconds` of work, over all the runs of one folder together."""

    trials: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.trials is None) == (self.seconds is None):
            raise QsearchError("a budget is either a number of trials or a time: give exactly one of them")
        if (self.trials or self.seconds or 0) <= 0:
            raise QsearchError("a budget must be positive")

    def share(self, trials: int, seconds: float) -> float:
        """The used part of the budget, 1.0 when it is spent."""
        return trials / self.trials if self.trials is not None else seconds / (self.seconds or 1.0)


def parse_budget(text: str) -> Budget:
    """`"200"` is 200 trials; `"90s"`, `"10m"`, `"1.5h"`, `"1h30m"`, `"2d"` are times. Raises `QsearchError`."""
    text = text.strip().lower()
    if re.fullmatch(r"\d+", text):
        return Budget(trials=int(text))
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise QsearchError(
            f"budget {text!r} is neither a number of trials such as 200 nor a time such as 90s, 10m, 1h30m"
        )
    return Budget(seconds=sum(float(number) * _SECONDS[unit] for number, unit in parts))
