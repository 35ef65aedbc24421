"""`qsearch search`: the run folder wired to the search."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Console

from qsearch.allocation import Allocation, Site
from qsearch.commands.progress import bar
from qsearch.cost import float_bitops
from qsearch.errors import QsearchError
from qsearch.evaluation import Measurer, evaluate
from qsearch.files import read_json, write_json
from qsearch.host import detect_host
from qsearch.images import resize_bicubic
from qsearch.measure.pool import Pool
from qsearch.network import CalibratedNetwork
from qsearch.quant.choice import describe
from qsearch.run import Run
from qsearch.search import Point, front, load_history, parse_budget, parse_objectives, run_search
from qsearch.target import Limits, load_target

SELECTED = "selected.json"


def search_run(run: Run, budget: str, console: Console) -> dict[str, Any]:
    """Search, or continue to search, within `budget` (a time such as 10m, or a number of trials)."""
    objectives = parse_objectives(run.config.objectives)
    limit = parse_budget(budget)
    pairs = run.pairs  # read before anything is written
    with run.pool(console.print) as pool:
        with bar(console, "calibrating") as progress:
            network = run.network(progress)
        history = run_search(
            run.folder / "search",
            within(network.sites, load_target(run.config.target).limits),
            run.measurer(network, pool),
            network.coster(run.config.size, [objective.name for objective in objectives]),
            objectives,
            limit,
            quality=Measurer(network, pairs, run.config.threads),
            predict=run.predictions(network),
            quantizers=run.quantizers,
            describe=partial(describe, network.calibration),
            seed=run.config.seed,
            conditions=_conditions(run, pool),
            references=_references(run, network),
        )
    found = front(history.points, objectives)
    console.print(f"{len(history.points)} trials, {len(found)} on the front; {run.folder / 'search' / 'front.json'}")
    return {
        "run": str(run.folder),
        "trials": len(history.points),
        "front": [{"point": point.number, **point.metrics} for point in found],
    }


def within(sites: Sequence[Site], limits: Limits) -> list[Site]:
    """The sites with only those choices that the target's kernels take; fixed sites stay."""
    allowed = range(limits.min_bits, limits.max_bits + 1)
    return [
        site.model_copy(update={"choices": tuple(bits for bits in site.choices if bits in allowed) or site.choices})
        for site in sites
    ]


def _conditions(run: Run, pool: Pool | None) -> dict[str, str]:
    protocol = f"Y (BT.601), {run.model.upscale} px cropped, output rounded to uint8, LR {run.pairs[0].lr_source}"
    return {
        "model": run.config.model,
        "images": f"{run.config.images} ({len(run.pairs)})",
        "protocol": protocol,
        "calibration": run.config.calibration,
        **({} if run.quantizers == "uniform" else {"quantizers of activations": run.quantizers}),
        "device": pool.timed_on if pool and pool.timed_on else run.config.target,
        "cpu": pool.cpu if pool and pool.cpu else _cpu(run),
        **({"bytes checked on": pool.checked_on} if pool and pool.checked_on else {}),
        **({"latency model": run.latency_model} if run.latency_model else {}),
        "threads": str(run.config.threads or "all"),
        "size": f"{run.config.size[1]}x{run.config.size[0]}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _cpu(run: Run) -> str:
    """The processor that latencies are of."""
    return load_target(run.config.target).cpu if run.latency_model else detect_host().cpu


def _references(run: Run, network: CalibratedNetwork) -> dict[str, dict[str, float]]:
    """The float network and bicubic on the same images, measured once per run."""
    stored = run.folder / "references.json"
    if not stored.is_file():
        upscale = run.model.upscale
        layers = network.layers(run.config.size)
        floating = {
            "psnr_y_db": evaluate(run.model.run, run.pairs, upscale).psnr_y_db,
            "bitops": float(float_bitops(layers)),
            "weight_bytes": 4.0 * sum(layer.weights + layer.out_channels for layer in layers),
        }
        bicubic = evaluate(lambda image: resize_bicubic(image, upscale), run.pairs, upscale).psnr_y_db
        write_json(stored, {"float": floating, "bicubic": {"psnr_y_db": bicubic}})
    found: dict[str, dict[str, float]] = read_json(stored)
    return found


def selected_point(run: Run, number: int | None = None) -> Point:
    """The point `number`, or the one that `select` chose; raises `QsearchError` where there is none."""
    if number is None:
        if not (run.folder / SELECTED).is_file():
            raise QsearchError(f"no point of {run.folder} is selected: run `qsearch select` first, or give --point")
        number = int(read_json(run.folder / SELECTED)["point"])
    points = {point.number: point for point in load_history(run.folder / "search").points}
    if number not in points:
        raise QsearchError(f"{run.folder} has no finished point {number}; it has {len(points)} points")
    return points[number]


def bits_label(allocation: Allocation) -> str:
    """Mean bits of weights and inputs, as in `w4.2a5.1`."""
    mean = {
        role: [site.bits for name, site in allocation.sites.items() if name.endswith(f".{role}")]
        for role in ("weight", "input")
    }
    weight, inputs = (sum(bits) / max(len(bits), 1) for bits in (mean["weight"], mean["input"]))
    return f"w{weight:.1f}a{inputs:.1f}"
