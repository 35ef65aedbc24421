"""`qsearch select`: one point over the networks and runs that are given, for an output of the size that is wanted."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch.commands.compile import compile_source
from qsearch.commands.models import keep_choice, network_name, run_folders
from qsearch.commands.search import SELECTED, bits_label
from qsearch.errors import QsearchError
from qsearch.files import write_json
from qsearch.measure.operations import Size
from qsearch.measure.profiling import open_table, plan_of
from qsearch.run import Run
from qsearch.search import OBJECTIVES, Point, front, human, load_history
from qsearch.search.history import History
from qsearch.search.selection import select_from
from qsearch.target import load_target

ALLOCATION = "selected-allocation.json"
RESOLUTIONS = {"720p": (720, 1280), "1080p": (1080, 1920), "1440p": (1440, 2560), "4k": (2160, 3840)}
MEASURED, TABLE, SCALED = (
    "as measured",
    "predicted from the operation table",
    "measured at the run's size and scaled by the pixels",
)
"""Where a latency for a size of the output comes from."""
_MEASURED, _MODELLED = "latency_ms", "latency_modelled_ms"
_MODELLED_LIMIT = "max_latency_modelled_ms"


def select_point(
    folders: Sequence[Path],
    limits: Mapping[str, float],
    console: Console,
    resolution: str | None = None,
    artefact: Path | None = None,
) -> dict[str, Any]:
    """Choose a trial under `limits`, keep it in the folder of its run, and compile it where `artefact` is named.

    With a `resolution` of the output, latencies are those at its size, and a limit on the measured one holds for what
    is predicted where nothing was timed at that size: see `at_resolution`.
    """
    runs = [Run.open(folder) for folder in run_folders(folders)]
    histories = [load_history(run.folder / "search") for run in runs]
    source, reason = "", ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in limits.items())
    if resolution is not None:
        histories, source = at_resolution(runs, histories, parse_resolution(resolution))
        if source != MEASURED and "max_latency_ms" in limits:
            limits = {_MODELLED_LIMIT if name == "max_latency_ms" else name: value for name, value in limits.items()}
    chosen = select_from(histories, **limits)
    folder, point = chosen.history.folder.parent, chosen.point
    run = next(run for run in runs if run.folder == folder)
    reason += f" at {resolution}, {source}" if resolution is not None else ""
    write_json(folder / SELECTED, {"point": point.number, "reason": reason})
    point.allocation.save(folder / ALLOCATION)
    keep_choice(folders, folder)
    metrics = ", ".join(f"{name} {human(name, value)}" for name, value in point.metrics.items() if name != "mse")
    network = network_name(run)
    console.print(
        f"{network}, {bits_label(point.allocation)}: point {point.number} of {folder} for {reason}: {metrics}"
    )
    if artefact is not None:
        compile_source(folder, artefact, point.number, None, None, console)
    else:
        console.print(f"compile it: qsearch compile {folder} --out ARTEFACT")
    return {
        "model": network,
        "run": str(folder),
        "point": point.number,
        "allocation": str(folder / ALLOCATION),
        "artefact": str(artefact) if artefact else None,
        "reason": reason,
        **point.metrics,
        **({"latency_at": resolution, "latency_source": source} if resolution is not None else {}),
    }


def parse_resolution(text: str) -> Size:
    """(height, width) of an output: `1080p`, `4k` or `1920x1080`; raises `QsearchError` for anything else."""
    known = RESOLUTIONS.get(text.lower())
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text.lower())
    if known is None and (match is None or not (int(match[1]) and int(match[2]))):
        raise QsearchError(f"resolution {text!r} is not width×height of the output, or {', '.join(RESOLUTIONS)}")
    return known or (int(match[2]), int(match[1]))  # type: ignore[index]


def at_resolution(runs: Sequence[Run], histories: Sequence[History], output: Size) -> tuple[list[History], str]:
    """The histories with latencies for an output of `output` = (height, width), and where these come from.

    They are as the runs measured (or modelled) them where those are of this size; else, for the points of each front,
    predicted from the operation table of the target where `qsearch profile` has filled it; else the runs' latencies in
    proportion to the pixels. All histories get theirs from one source, and the last two are `latency_modelled_ms`, for
    no network was timed at this size. Raises `QsearchError` where there is none.
    """
    sizes = [_input_size(output, run.model.upscale) for run in runs]
    if all(run.config.size == size for run, size in zip(runs, sizes, strict=True)) and _has_latency(histories):
        return list(histories), MEASURED
    predicted = [_predicted(run, history, size) for run, history, size in zip(runs, histories, sizes, strict=True)]
    tables = [history for history in predicted if history is not None]
    if len(tables) == len(runs):
        return tables, TABLE
    if not _has_latency(histories):
        raise QsearchError(
            f"no latency at {output[1]}x{output[0]} is known: run `qsearch profile --model {runs[0].folder} --size "
            f"{sizes[0][1]}x{sizes[0][0]}`, or search with latency_ms among the objectives"
        )
    factors = [_pixels(size) / _pixels(run.config.size) for run, size in zip(runs, sizes, strict=True)]
    return [_scaled(history, factor) for history, factor in zip(histories, factors, strict=True)], SCALED


def _input_size(output: Size, upscale: int) -> Size:
    return -(-output[0] // upscale), -(-output[1] // upscale)


def _pixels(size: Size) -> int:
    return size[0] * size[1]


def _latency(point: Point) -> float | None:
    return point.metrics.get(_MEASURED, point.metrics.get(_MODELLED))


def _has_latency(histories: Sequence[History]) -> bool:
    return all(_latency(point) is not None for history in histories for point in history.points)


def _scaled(history: History, factor: float) -> History:
    return _modelled(history, [(point, (_latency(point) or 0.0) * factor) for point in history.points])


def _predicted(run: Run, history: History, size: Size) -> History | None:
    """The points of the front with predicted latencies; None where the table lacks an operation at this size."""
    target = load_target(run.config.devices[0] if run.config.devices else run.config.target)
    try:
        table = open_table(target, run.config.threads)
    except QsearchError:
        return None  # neither timed nor modelled
    if not table.times:
        return None
    found, network = [], run.network()
    for point in front(history.points, history.objectives):
        plan = plan_of(network.program(point.allocation, run.finetuned(point)), target)
        predicted = table.predict(plan, size, target.limits.memory_bytes)
        if predicted.missing or predicted.scaled:
            return None
        found.append((point, predicted.ms))
    return _modelled(history, found)


def _modelled(history: History, latencies: Sequence[tuple[Point, float]]) -> History:
    """The history with these points and modelled latencies in place of what it had."""
    points = [
        replace(point, metrics={**{k: v for k, v in point.metrics.items() if k != _MEASURED}, _MODELLED: ms})
        for point, ms in latencies
    ]
    names = dict.fromkeys(_MODELLED if o.name == _MEASURED else o.name for o in history.objectives)
    return replace(history, points=points, objectives=tuple(OBJECTIVES[name] for name in names))
