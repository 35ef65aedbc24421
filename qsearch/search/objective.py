"""What a search optimises: names, directions and units; the user's list is parsed here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from qsearch.errors import QsearchError


@dataclass(frozen=True)
class Objective:
    """One metric that a search optimises."""

    name: str
    direction: Literal["maximize", "minimize"]
    label: str
    """The words a person reads: on an axis, in a table head."""
    unit: str

    def loss(self, value: float) -> float:
        """`value` with the sign that makes smaller better."""
        return -value if self.direction == "maximize" else value


OBJECTIVES: dict[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("psnr_y_db", "maximize", "PSNR (Y)", "dB"),
        Objective("latency_ms", "minimize", "latency", "ms"),
        Objective("latency_modelled_ms", "minimize", "modelled latency", "ms"),
        Objective("bitops", "minimize", "BitOPs", ""),
        Objective("weight_bytes", "minimize", "weights", "bytes"),
        Objective("peak_bytes", "minimize", "peak activations", "bytes"),
    )
}
"""Every metric that may be an objective or a limit."""


def parse_objectives(names: str | Iterable[str]) -> tuple[Objective, ...]:
    """The objectives of a list such as `"psnr_y_db,bitops"`.

    Raises `QsearchError` for an unknown or repeated name, for a measured and a modelled latency together, without
    `psnr_y_db`, or without any cost to trade it for.
    """
    wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    for name in wanted:
        if name not in OBJECTIVES:
            raise QsearchError(f"unknown objective {name!r}: choose from {', '.join(OBJECTIVES)}")
    if len(set(wanted)) != len(wanted):
        raise QsearchError(f"objectives {', '.join(wanted)} name one twice")
    if {"latency_ms", "latency_modelled_ms"} <= set(wanted):
        raise QsearchError("latency_ms is measured and latency_modelled_ms is not: name one of them, they never mix")
    if "psnr_y_db" not in wanted or len(wanted) < 2:
        raise QsearchError("objectives must name psnr_y_db and at least one cost, such as psnr_y_db,bitops")
    return tuple(OBJECTIVES[name] for name in wanted)


def human(name: str, value: float) -> str:
    """`value` of metric `name` with its unit, as a person reads it: `31.42 dB`, `12.3 ms`, `48.1 G`, `212 kB`.

    What a cycle model says is marked: `12.3 ms (modelled)`.
    """
    if name.endswith("_db"):
        return f"{value:.3f} dB"
    if name.endswith("_modelled_ms"):
        return f"{value:.3g} ms (modelled)"
    if name.endswith("_ms"):
        return f"{value:.3g} ms"
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g} {letter}{'B' if name.endswith('_bytes') else ''}"
    return f"{value:.4g}{' B' if name.endswith('_bytes') else ''}"


def losses(objectives: Sequence[Objective], metrics: dict[str, float]) -> list[float]:
    """The objectives' values, each with the sign that makes smaller better."""
    return [objective.loss(metrics[objective.name]) for objective in objectives]
