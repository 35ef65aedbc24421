"""What a report is made of: plain data, nothing to be computed but drawings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qsearch.allocation import Site
from qsearch.search import Objective, Point, Sensitivity
from qsearch.search.history import Finished


@dataclass(frozen=True)
class Picture:
    """One crop of one image, uint8 [H, W, 3] RGB, at the output's resolution."""

    label: str
    """`bicubic`, `float`, `w4.2a4.0`, `original`, …"""
    pixels: NDArray[np.uint8]
    note: str = ""
    """The line below it, such as its PSNR."""


@dataclass(frozen=True)
class Crop:
    """The same part of one image, as several ways of upscaling give it."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class FrontData:
    """What a front is drawn from, whatever it is that was searched."""

    objectives: Sequence[Objective]
    points: Sequence[Finished]
    """Every finished trial."""
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    winner: Finished | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything that the page says."""

    title: str
    sites: Sequence[Site]
    objectives: Sequence[Objective]
    points: Sequence[Point]
    """Every finished trial."""
    conditions: Mapping[str, str]
    """Device, threads, image sets, the PSNR protocol in words, date, versions."""
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Metrics of `float` and `bicubic`; `float` may have costs, too."""
    winner: Point | None = None
    reason: str = ""
    """Why the winner was chosen: `best PSNR within 20 ms`."""
    pieces: Mapping[str, str] = field(default_factory=dict)
    """Of the winner's piecewise sites, what their quantizers are in words: breakpoints, ratio, span."""
    sensitivity: Sensitivity | None = None
    crops: Sequence[Crop] = ()
    commands: Sequence[tuple[str, str]] = ()
    """(what it does, the command) for running the artefact."""
