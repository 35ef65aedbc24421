"""A search by measured latency: lower bits are faster, and the artefacts confirm what the search measured.

    python results/front-latency/run.py

needs ../shared/data. `rnet9_x4` is calibrated on DIV2K LR images and searched for PSNR on crops of the DIV2K validation
set and for latency on this machine, on the kernels that are fastest for each allocation. Three points of the front are
then compiled and timed as processes of their own, in rounds interleaved with the slowest of them; their ratios are
compared with those of the search. Run it on a quiet machine. Writes table.json, front.svg and README.md here; an
interrupted run continues.
"""

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch.commands.report import gather
from qsearch.commands.search import bits_label, search_run
from qsearch.compile import tuning
from qsearch.compile.artefact import build_artefact
from qsearch.data import shared_data
from qsearch.files import write_atomic, write_json
from qsearch.measure.devices import open_device
from qsearch.report import save_front
from qsearch.run import Run, RunConfig
from qsearch.search import Point, front, load_history
from qsearch.target import load_target

TRIALS, IMAGES, THREADS = 90, 10, 1
SIZE = (90, 160)
CHECKED, ROUNDS, AGREEMENT = 3, 64, 0.05
HERE = Path(__file__).parent

PAGE = """# A front of measured latency: rnet9_x4

Made by `python results/front-latency/run.py`: {trials} trials on {cpu}, {threads} thread(s), input {size}. PSNR on
{images} crops of the DIV2K validation set, from the integer network; latency of the whole network on the host's
kernels, each in rounds interleaved with the 8-bit network.

![front](front.svg)

| point | bits (mean) | PSNR | latency, ms | of the slowest |
|---|---|---|---|---|
{front}

Uniform allocations of the same search:

| uniform | PSNR | latency, ms | of W8A8 |
|---|---|---|---|
{uniform}

## Three artefacts as processes of their own

Static executables, timed by their own `--bench` in interleaved rounds ({threads} thread(s), {size}); the ratio is to
the first.

| point | ratio in the search | ratio of the artefacts (95 %) | differ by | latency of the artefact, ms |
|---|---|---|---|---|
{checked}

The order {order}; the largest difference of a ratio is {worst:.1f} % (wanted: at most {agreement:.0f} %).
"""


def main() -> None:
    """Search, compile three points, time them, write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", default="runs/front-latency", help="folder of the run")
    folder = Path(parser.parse_args().run)
    data = shared_data()
    if data is None:
        raise SystemExit("the benchmark data folder ../shared/data is not beside this checkout")
    data = Path(os.path.relpath(data))
    config = RunConfig(
        str(data / "weights" / "rnet9_x4.pt"), str(data / "validation"), str(data / "calibration"),
        "psnr_y_db,latency_ms", SIZE, image_limit=IMAGES, threads=THREADS,
    )  # fmt: skip
    run = Run.create(folder, config)
    search_run(run, str(TRIALS), Console(stderr=True))
    history = load_history(folder / "search")
    best = sorted(front(history.points, history.objectives), key=lambda p: -p.metrics["latency_ms"])
    checked = check(run, _spread(best))
    save_front(HERE / "front.svg", gather(run, pictures=[]), "latency_ms")
    write(history, best, checked)


def _spread(points: list[Point]) -> list[Point]:
    """The slowest, the fastest, and the one whose latency is nearest to their geometric mean."""
    slow, fast = points[0], points[-1]
    middle = (slow.metrics["latency_ms"] * fast.metrics["latency_ms"]) ** 0.5
    between = min(points, key=lambda p: abs(p.metrics["latency_ms"] - middle))
    return [slow, between, fast]


def check(run: Run, points: list[Point]) -> list[dict[str, Any]]:
    """Time the artefacts of `points` against that of the first."""
    network, target, rows = run.network(), load_target("host"), []
    with tempfile.TemporaryDirectory() as temporary:
        folders = []
        for point in points:
            folder = Path(temporary) / f"point{point.number}"
            program = network.program(point.allocation)
            build_artefact(program, folder, target, name="network", choose=tuning.measured(THREADS))
            folders.append(folder)
        device = open_device(target)
        for point, folder in zip(points, folders, strict=True):
            found = device.bench(folder, ROUNDS, SIZE, THREADS, reference=folders[0])
            assert found.ratio is not None
            searched = point.metrics["latency_ms"] / points[0].metrics["latency_ms"]
            rows.append({"point": point.number, "searched": searched, "ratio": asdict(found.ratio),
                         "latency_ms": found.latency_ms, "difference": found.ratio.median / searched - 1,
                         "converged": found.converged})  # fmt: skip
        device.close()
    return rows


def write(history: Any, best: list[Point], checked: list[dict[str, Any]]) -> None:
    """The table and the page."""
    uniform = [p for p in history.points if p.origin.startswith("uniform")]
    uniform.sort(key=lambda p: -p.metrics["psnr_y_db"])
    slowest, eight = best[0].metrics["latency_ms"], uniform[0].metrics["latency_ms"]
    worst = 100 * max(abs(row["difference"]) for row in checked)
    same_order = sorted(checked, key=lambda r: -r["ratio"]["median"]) == sorted(checked, key=lambda r: -r["searched"])
    conditions = {k: v for k, v in history.conditions.items() if k in ("cpu", "protocol", "size", "threads", "date")}
    write_json(HERE / "table.json", {
        "trials": len(history.points), "conditions": conditions, "checked": checked,
        "front": [{"point": p.number, **p.metrics} for p in best],
        "uniform": [{"allocation": p.origin, **p.metrics} for p in uniform],
    })  # fmt: skip

    def cells(point: Point, of: float) -> str:
        psnr, ms = point.metrics["psnr_y_db"], point.metrics["latency_ms"]
        return f"{psnr:.3f} | {ms:.2f} | {ms / of:.2f} |"

    page = PAGE.format(
        trials=len(history.points), cpu=conditions["cpu"], threads=THREADS, size=f"{SIZE[1]}x{SIZE[0]}", images=IMAGES,
        front="\n".join(f"| {p.number} | {bits_label(p.allocation)} | {cells(p, slowest)}" for p in best),
        uniform="\n".join(f"| {p.origin.removeprefix('uniform ')} | {cells(p, eight)}" for p in uniform),
        checked="\n".join(
            f"| {row['point']} | {row['searched']:.3f} | {row['ratio']['median']:.3f} ({row['ratio']['low']:.3f}–"
            f"{row['ratio']['high']:.3f}) | {100 * row['difference']:+.1f} % | {row['latency_ms']:.2f} |"
            for row in checked
        ),
        order="agrees" if same_order else "does **not** agree", worst=worst, agreement=100 * AGREEMENT,
    )  # fmt: skip
    write_atomic(HERE / "README.md", page)
    print(json.dumps({"trials": len(history.points), "on_front": len(best), "worst_percent": worst}))


if __name__ == "__main__":
    main()
