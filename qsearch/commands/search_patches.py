"""`qsearch search-patches`, and a setting that it found made a configuration that `qsearch compile` takes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch.commands.patch_run import PatchRun
from qsearch.commands.patches import overlap_of, scores
from qsearch.commands.progress import bar
from qsearch.errors import QsearchError
from qsearch.files import require_free
from qsearch.patches.clusters import Clustering
from qsearch.patches.execute import names_of
from qsearch.patches.latency import PatchTimer
from qsearch.patches.rule import EdgeRule
from qsearch.patches.scoring import PatchScorer
from qsearch.patches.search import PatchPoint, load_points, row, run_patch_search, savings, split_front
from qsearch.patches.setting import CLUSTERS, PatchSpace, Setting, Whole
from qsearch.patches.stored import StoredPatches
from qsearch.report import FrontData, save_front
from qsearch.run import Run, RunConfig
from qsearch.search import Objective, human, parse_budget, parse_objectives

COSTS = ("bitops", "latency_ms")
LATENCY_IMAGES = 3
"""Images, the first ones, that latency is the mean of."""


def search_patches(
    out: Path, config: RunConfig, space: PatchSpace, source: Path | None, budget: str, console: Console
) -> dict[str, Any]:
    """Search settings of patches, or continue to, within `budget` (a time such as 10m, or a number of trials)."""
    objectives, limit = objectives_of(config.objectives), parse_budget(budget)
    with bar(console, "calibrating") as progress:
        run = PatchRun.create(out, config, space, source, progress)
    network = run.run.network()
    scorer = run.scorer(network)
    points = run_patch_search(
        run.folder, run.space, _measure(run, scorer, objectives), objectives, limit, run.run.config.seed
    )
    whole, best = split_front(points, objectives)
    for point in whole:
        console.print(f"point {point.number}, {point.origin}: {_figures(point, objectives)}")
    for point in best:
        console.print(f"point {point.number}, {_words(point)}: {_figures(point, objectives)}")
        console.print(f"  {_saved(point, whole, objectives)}")
    for objective in objectives:
        if objective.direction == "minimize" and len({point.metrics[objective.name] for point in points}) > 1:
            save_front(out / f"front-{objective.name}.svg", FrontData(objectives, points), objective.name)
    console.print(f"{len(points)} trials; {run.folder / 'front.json'}")
    console.print(f"store one: qsearch patches --from {out} --point N --out FOLDER")
    return {
        "run": str(out),
        "trials": len(points),
        "whole_images": [row(point) for point in whole],
        "patches": [{**row(point), "saved": savings(point, whole, objectives)} for point in best],
    }


def store_point(folder: Path, number: int, out: Path, console: Console) -> dict[str, Any]:
    """Store the setting of trial `number` in the new folder `out`, scored anew as `qsearch patches` does."""
    require_free(out)
    run = PatchRun.open(folder)
    points = {point.number: point for point in load_points(run.folder)}
    if number not in points:
        raise QsearchError(f"{folder} has no finished trial {number}; it has {len(points)}")
    tried = points[number].tried
    if isinstance(tried, Whole):
        raise QsearchError(f"trial {number} of {folder} is {points[number].origin}, without patches: choose another")
    network = run.run.network()
    scorer = run.scorer(network)
    made = scorer.configuration(tried)
    assert isinstance(made.policy, (EdgeRule, Clustering))
    stored = StoredPatches.of(network, made.levels, made.layout, made.policy)
    ranges = scorer.own_ranges(made.layout) if tried.own_ranges else None
    score = scores(stored, network, made.levels, run.run.pairs, ranges, console)
    replace(stored, score=score).save(out)
    return {"out": str(out), "model": run.run.config.model, "run": str(folder), "point": number, **score}


def objectives_of(text: str) -> tuple[Objective, ...]:
    """The objectives of a search of patches; raises `QsearchError` for others."""
    objectives = parse_objectives(text)
    for objective in objectives:
        if objective.direction == "minimize" and objective.name not in COSTS:
            raise QsearchError(f"a search of patches knows the costs {' and '.join(COSTS)}, not {objective.name}")
    return objectives


def _measure(
    run: PatchRun, scorer: PatchScorer, objectives: Sequence[Objective]
) -> Callable[[Setting | Whole], dict[str, float]]:
    if not any(objective.name == "latency_ms" for objective in objectives):
        return scorer.measure
    images = [pair.lr for pair in run.run.pairs[:LATENCY_IMAGES]]
    timer = PatchTimer(scorer.network, run.levels()[0], images, run.run.config.threads)

    def measure(tried: Setting | Whole) -> dict[str, float]:
        metrics = scorer.measure(tried)
        own = bool(metrics.get("own_ranges"))
        made = scorer.whole(tried, own) if isinstance(tried, Whole) else scorer.configuration(tried)
        return {**metrics, "latency_ms": timer.latency_ms(made)}

    return measure


def _words(point: PatchPoint) -> str:
    tried = point.tried
    assert isinstance(tried, Setting)
    decides = f"clusters of {tried.classes} classes" if tried.policy == CLUSTERS else tried.policy
    ranges = "own ranges" if tried.own_ranges else "common ranges"
    share = f"{point.metrics['high_share']:.0%}"
    bits = f"{share} {tried.high} else {tried.low}, {ranges}"
    apart = "seamless" if tried.overlap is None else f"overlap {tried.overlap}"
    return f"patches of {tried.patch} {apart} by {decides}, {bits}"


def _figures(point: PatchPoint, objectives: Sequence[Objective]) -> str:
    return ", ".join(human(objective.name, point.metrics[objective.name]) for objective in objectives)


def _saved(point: PatchPoint, whole: Sequence[PatchPoint], objectives: Sequence[Objective]) -> str:
    words = []
    for name, share in savings(point, whole, objectives).items():
        label = next(objective.label for objective in objectives if objective.name == name)
        if share is None:
            words.append(f"a better picture than whole images at any allocation ({label})")
        else:
            words.append(f"{abs(share):.1%} {'less' if share >= 0 else 'more'} {label} than whole images of this PSNR")
    return ", ".join(words)


def settings_of(
    model: str | None,
    source: Path | None,
    levels: str,
    patch: str,
    overlap: str,
    policy: str,
    classes: str,
    ranges: str,
    objectives: str,
    calibration: str | None,
    images: str | None,
    limit: int | None,
    threads: int | None,
    seed: int,
) -> tuple[RunConfig, PatchSpace]:
    """The configuration and the space of the options of the command line."""
    objectives_of(objectives)
    names = tuple(names_of(levels)) if source is None else ("high", "low")  # the run's own take their place
    if source is None and list(names) != sorted(set(names), reverse=True):
        raise QsearchError(f"--levels {levels!r} must go from high to low, each once, as in 8-6-4")
    space = PatchSpace(
        _numbers("patch", patch),
        tuple(overlap_of(part) for part in overlap.split(",")),
        tuple(policy.split(",")),
        _numbers("classes", classes),
        names,
        tuple(ranges.split(",")),
    )
    if None in space.overlaps and "latency_ms" in objectives:
        raise QsearchError(
            "--objectives latency_ms needs an --overlap in pixels: seamless patches are timed as artefacts"
        )
    if source is None:
        count = limit or 32
        config = RunConfig(
            model or "", images or "samples", calibration or "samples", objectives, threads=threads, image_limit=count,
            calibration_limit=count, seed=seed,
        )  # fmt: skip
        return config, space
    static = Run.open(source).config
    changes = {"images": images, "image_limit": limit, "threads": threads}
    kept = {name: value for name, value in changes.items() if value is not None}
    return replace(static, objectives=objectives, devices=(), quantizers="uniform", seed=seed, **kept), space  # type: ignore[arg-type]


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise QsearchError(f"--{option} {text!r} is no list of whole numbers such as 8,16") from None
