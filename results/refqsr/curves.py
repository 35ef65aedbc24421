"""Whole images against patches without training: BitOPs at equal PSNR for uniform, searched and per-patch bits."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from subjects import CLASSES, LAYOUT, SEAMLESS, SET, SETS, UPSCALE, Subject

from qsearch.commands.search import search_run
from qsearch.patches import (
    CurvePoint,
    Layout,
    Level,
    PatchBank,
    bitops_at,
    levels_of,
    static_point,
)
from qsearch.patches.scoring import PatchScorer
from qsearch.patches.setting import CLUSTERS, EDGES, POLICIES, RELATIVE, Setting
from qsearch.run import Run, RunConfig
from qsearch.search import front, load_history

BITS = "8-7-6-5-4-3"
PAIRS = ("8-4", "8-3", "6-3", "6-4")
NEAR = ("7-6", "6-5", "5-4")
"""Near widths: where the oracle says that patches may win."""
SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
FEW_SHARES = (0.25, 0.5, 0.75)
LAYOUTS = (Layout(32, 4), LAYOUT, Layout(96, 2))
"""Of patches that run apart."""
SEARCHED_STEP = 2
"""From the low to the high one of two searched allocations that patches mix, in points of the front."""
ORACLES = (SEAMLESS, LAYOUT)
"""Layouts that are also decided with the originals in hand."""
DROP_DB, USEFUL_DROP_DB = 0.1, 0.5
TRIALS, SEARCH_IMAGES, FRONT_POINTS = 120, 16, 12


def curves(subject: Subject, console: Console) -> dict[str, Any]:
    """For every image set: the uniform and the searched curve, and all of patches."""
    searched = _searched(subject, console)
    return {name: _of_set(subject, name, searched) for name in SETS}


def _searched(subject: Subject, console: Console) -> list[Level]:
    """The front of a search over all sites for whole images, on DIV2K's validation crops."""
    trials, images = (TRIALS, SEARCH_IMAGES) if subject.limit is None else (12, subject.limit)
    config = RunConfig(str(subject.weights), str(subject.data / "validation"), str(subject.data / "calibration"),
                       "psnr_y_db,bitops", image_limit=images, calibration_limit=len(subject.images))  # fmt: skip
    run = Run.create(subject.folder / "search", config)
    search_run(run, str(trials), console)
    history = load_history(run.folder / "search")
    best = sorted(front(history.points, history.objectives), key=lambda point: point.metrics["bitops"])
    kept = [best[round(i * (len(best) - 1) / (FRONT_POINTS - 1))] for i in range(FRONT_POINTS)]
    return [Level(f"searched {point.number}", point.allocation) for point in {p.number: p for p in kept}.values()]


def _of_set(subject: Subject, name: str, searched: list[Level]) -> dict[str, Any]:
    """Every curve on one image set; on `SET` also with own ranges and by the oracle."""
    network, pairs = subject.network, subject.pairs(name)
    levels, largest = levels_of(network, BITS), max(layout.patch for layout in LAYOUTS)
    static = [static_point(network, level, pairs) for level in levels]
    found = [static_point(network, level, pairs) for level in searched]
    folder = subject.folder / "classifiers"
    folder.mkdir(parents=True, exist_ok=True)
    scorer = PatchScorer(network, [*levels, *searched], pairs, subject.images, folder, largest)
    rows: dict[str, list[CurvePoint]] = {}

    def add(pair: str, policy: str, layout: Layout, shares: Sequence[float], own: bool = False) -> None:
        title = f"{policy} with own ranges" if own else policy
        settings = [_setting(layout, pair, policy, share, own) for share in shares]
        rows[f"{pair}, {title}, {layout_name(layout)}"] = [_point(scorer, setting) for setting in settings]

    for pair in (*PAIRS, *NEAR):
        for layout in LAYOUTS:
            for policy in POLICIES:
                add(pair, policy, layout, SHARES)
        add(pair, RELATIVE, SEAMLESS, SHARES if pair in NEAR else FEW_SHARES)
    least = static[0].psnr_y_db - USEFUL_DROP_DB
    for low, high, point in zip(searched, searched[SEARCHED_STEP:], found[SEARCHED_STEP:], strict=False):
        if point.psnr_y_db >= least:
            add(f"{high.name}-{low.name}", RELATIVE, SEAMLESS, FEW_SHARES)
    if name == SET:
        for pair in (*PAIRS, *NEAR):
            add(pair, EDGES, LAYOUT, FEW_SHARES, own=True)
            add(pair, CLUSTERS, SEAMLESS, FEW_SHARES)
        for layout in ORACLES:
            bank = PatchBank(network, levels, layout, pairs)
            for pair in (PAIRS[0], *NEAR):
                rows[f"{pair}, oracle, {layout_name(layout)}"] = [
                    bank.oracle(f"oracle {share:g}", pair.split("-"), share) for share in FEW_SHARES
                ]
    return _compared(static, found, rows) | {"protocol": f"Y, {UPSCALE} px cropped", "images": len(pairs)}


def _setting(layout: Layout, pair: str, policy: str, share: float, own: bool = False) -> Setting:
    high, low = pair.split("-")
    overlap = None if layout.seamless else layout.overlap
    return Setting(layout.patch, overlap, policy, CLASSES if policy == CLUSTERS else 0, share, high, low, own)


def layout_name(layout: Layout) -> str:
    """What a row or a column of the page says of it."""
    return f"{layout.patch} px seamless" if layout.seamless else f"{layout.patch} px"


def _point(scorer: PatchScorer, setting: Setting) -> CurvePoint:
    metrics = scorer.measure(setting)
    name = f"{setting.policy} {setting.share:g}"
    return CurvePoint(name, metrics["psnr_y_db"], metrics["bitops"], metrics["high_share"])


def _compared(
    static: list[CurvePoint], searched: list[CurvePoint], rows: dict[str, list[CurvePoint]]
) -> dict[str, Any]:
    """BitOPs of every curve at the PSNR that is wanted, and at every point the saving against whole images."""
    wanted = static[0].psnr_y_db - DROP_DB
    at: Callable[[list[CurvePoint]], float | None] = lambda points: bitops_at(points, wanted)  # noqa: E731
    return {
        "wanted_db": wanted,
        "uniform": [asdict(point) for point in static],
        "searched": [asdict(point) for point in searched],
        "w8a8_bitops": static[0].bitops,
        "uniform_bitops": at(static),
        "searched_bitops": at([*static, *searched]),
        "patches": {
            name: {
                "bitops": at(points),
                "points": [asdict(point) for point in points],
                "best_saving": _best_saving(points, static, searched),
            }
            for name, points in rows.items()
        },
    }


def _best_saving(
    points: list[CurvePoint], static: list[CurvePoint], searched: list[CurvePoint]
) -> dict[str, Any] | None:
    """The useful point that saves most against whole images at its own PSNR, uniform or searched."""
    rivals, least = [*static, *searched], static[0].psnr_y_db - USEFUL_DROP_DB
    useful = [point for point in points if point.psnr_y_db >= least]
    savings = [(1 - point.bitops / rival, point) for point in useful if (rival := bitops_at(rivals, point.psnr_y_db))]
    if not savings:
        return None
    saving, point = max(savings, key=lambda entry: entry[0])
    return {"saving": saving, **asdict(point)}
