"""Our network beside the peers: interleaved rounds, paired ratios, and how much their pictures agree."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from qsearch.compile import tuning
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.measure.peers import PEERS, Run, Subject, known_peer, open_peer
from qsearch.measure.timers import Comparison, Conditions, Ratio, Timing, interleave, median_interval

OURS = "qsearch"


@dataclass(frozen=True)
class Row:
    """One runtime at one number of threads."""

    name: str
    title: str
    version: str
    timing: Timing
    ours_over_this: Ratio | None
    """Our time over this one's, paired round by round; below 1 we are faster. None for ourselves."""
    sqnr_float_db: float | None
    """Signal-to-quantization-noise of its picture against the float network's; None where they are equal."""
    sqnr_ours_db: float | None
    """The same against our picture."""


@dataclass(frozen=True)
class Against:
    """One interleaved run at one number of threads."""

    rows: tuple[Row, ...]
    refused: Mapping[str, str]
    """Why a peer did not run, in one line each."""
    conditions: Conditions
    extra: Mapping[str, Timing]
    """Timings of further functions that took part in the rounds."""

    @property
    def fastest_int8(self) -> Row | None:
        """The fastest peer that computes in int8."""
        found = [row for row in self.rows if row.name != OURS and row.title.endswith("INT8")]
        return min(found, key=lambda row: row.timing.median_ms) if found else None


def measure_against(
    program: GraphModule,
    subject: Subject,
    peers: Sequence[str],
    threads: int,
    rounds: int,
    functions: Mapping[str, Any] | None = None,
) -> Against:
    """Time the integer `program` and `peers` in interleaved rounds on one picture of the subject's size.

    A peer that is missing or refuses the network is left out and said. `functions` take part, too. Raises
    `QsearchError` for an unknown peer.
    """
    for name in peers:
        known_peer(name)
    image = picture(subject.images, subject.size)
    ours = HostNetwork(program, threads, choose=tuning.measured(threads))
    runs: dict[str, Run] = {OURS: ours.run}
    refused: dict[str, str] = {}
    for name in dict.fromkeys(peers):
        try:
            runs[name] = open_peer(name, subject, threads)
            _check_shape(name, runs[name](image), image, subject.model.upscale)
        except QsearchError as error:
            runs.pop(name, None)
            refused[name] = str(error)
    pictures = {name: run(image) for name, run in runs.items()}
    timed = {name: lambda run=run: run(image) for name, run in runs.items()}
    compared = interleave(
        {**timed, **(functions or {})}, rounds, OURS, threads=threads, size=subject.size, min_sample_ms=10.0
    )
    floating = subject.model.run(image)
    rows = tuple(_row(name, compared, pictures, floating) for name in runs)
    extra = {name: compared.timings[name] for name in functions or {}}
    return Against(rows, refused, compared.conditions, extra)


def picture(images: Sequence[NDArray[np.uint8]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture of `size` = (height, width): the largest image, mirrored at its edges where it is too small."""
    image = max(images, key=lambda found: found.shape[0] * found.shape[1])
    for axis, wanted in enumerate(size):
        while image.shape[axis] < wanted:
            image = np.concatenate([image, np.flip(image, axis)], axis)
    return np.ascontiguousarray(image[: size[0], : size[1]])


def sqnr_db(result: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float | None:
    """10·log10(Σ reference² / Σ (result − reference)²); None for equal pictures."""
    signal, other = reference.astype(np.float64), result.astype(np.float64)
    noise = float(((signal - other) ** 2).sum())
    return None if noise == 0 else round(10 * math.log10(max(float((signal**2).sum()), 1.0) / noise), 2)


def _check_shape(name: str, result: NDArray[np.uint8], image: NDArray[np.uint8], upscale: int) -> None:
    wanted = (image.shape[0] * upscale, image.shape[1] * upscale, 3)
    if result.shape != wanted:
        raise QsearchError(f"peer {name} gives an image of {result.shape}, not {wanted}: it runs another network")


def _row(
    name: str, compared: Comparison, pictures: Mapping[str, NDArray[np.uint8]], floating: NDArray[np.uint8]
) -> Row:
    timing, ours = compared.timings[name], compared.timings[OURS]
    pairs = zip(ours.samples_ms, timing.samples_ms, strict=True)
    ratio = None if name == OURS else Ratio(*median_interval([a / b for a, b in pairs]))
    title, distribution = (OURS, "qsearch") if name == OURS else (PEERS[name].title, PEERS[name].distribution)
    return Row(name, title, _version(distribution), timing, ratio, sqnr_db(pictures[name], floating),
               None if name == OURS else sqnr_db(pictures[name], pictures[OURS]))  # fmt: skip


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
