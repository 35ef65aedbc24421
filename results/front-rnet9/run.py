"""A search of 200 trials on a real network: PSNR against BitOPs, and whether it beats every uniform allocation.

    python results/front-rnet9/run.py

needs ../shared/data. `rnet9_x4` (22 convolutions) is calibrated on DIV2K LR images and searched on crops of the DIV2K
validation set; Set5 and Set14 are looked at only afterwards, to see that what was found holds on images that the search
never saw. Writes table.json, report.html, front.svg, crop.png and README.md here. An interrupted run continues.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch import samples
from qsearch.allocation import uniform
from qsearch.commands.report import gather
from qsearch.commands.search import search_run
from qsearch.commands.select import select_point
from qsearch.data import shared_data
from qsearch.evaluation import Measurer
from qsearch.files import write_atomic, write_json
from qsearch.images import read_pairs
from qsearch.report import save_crop, save_front, write_report
from qsearch.run import Run, RunConfig
from qsearch.search import front, load_history

TRIALS = 200
IMAGES = 20
UNIFORM = (8, 7, 6, 5, 4, 3)
FEWER, MORE_DB = 0.10, 0.1
HERE = Path(__file__).parent

PAGE = """# A front for rnet9_x4: PSNR against BitOPs

Made by `python results/front-rnet9/run.py`: {trials} trials on {cpu}, {minutes:.0f} minutes. Searched on {images} crops
of the DIV2K validation set (LR by MATLAB bicubic), BitOPs at 320×180. The page with the front, the bits per site and
crops is `report.html`.

![front](front.svg)

A uniform allocation is *beaten* by a point with at least 10 % fewer BitOPs and no less PSNR, or with no more BitOPs and
at least 0.1 dB more.

| uniform | BitOPs | PSNR | fewer BitOPs at no less PSNR | more PSNR at no more BitOPs | beaten |
|---|---|---|---|---|---|
{rows}

The same points on images that the search never saw (mean PSNR in dB of the integer network):

| uniform | Set5 | Set14 | point of the front with no more BitOPs | Set5 | Set14 |
|---|---|---|---|---|---|
{unseen}
"""


def compare(points: list[Any], bits: int, network: Any) -> dict[str, Any]:
    """How the front stands to the uniform allocation of `bits`."""
    allocation = uniform(network.sites, bits, bits)
    rival = next(point for point in points if point.allocation == allocation)
    bitops, psnr = rival.metrics["bitops"], rival.metrics["psnr_y_db"]
    as_good = [p for p in points if p.metrics["psnr_y_db"] >= psnr]
    as_cheap = [p for p in points if p.metrics["bitops"] <= bitops]
    cheapest = min(as_good, key=lambda p: p.metrics["bitops"])
    best = max(as_cheap, key=lambda p: p.metrics["psnr_y_db"])
    fewer, more = 1 - cheapest.metrics["bitops"] / bitops, best.metrics["psnr_y_db"] - psnr
    return {"bits": bits, "bitops": bitops, "psnr_y_db": psnr, "fewer_bitops": fewer, "more_psnr_db": more,
            "beaten": fewer >= FEWER or more >= MORE_DB, "cheapest": cheapest.number, "best": best.number}  # fmt: skip


def unseen(network: Any, rows: list[dict[str, Any]], points: list[Any], data: Path) -> None:
    """Add the PSNR on Set5 and Set14 of each uniform allocation and of its rival on the front."""
    by_number = {point.number: point for point in points}
    for dataset in ("Set5", "Set14"):
        measure = Measurer(network, read_pairs(data / "benchmarks" / dataset / "x4", 4))
        for row in rows:
            row[f"uniform_{dataset}"] = measure(uniform(network.sites, row["bits"], row["bits"]))["psnr_y_db"]
            row[f"found_{dataset}"] = measure(by_number[row["best"]].allocation)["psnr_y_db"]


def main() -> None:
    """Search, compare, write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", default="runs/front-rnet9", help="folder of the run")
    folder = Path(parser.parse_args().run)
    data = shared_data()
    if data is None:
        raise SystemExit("the benchmark data folder ../shared/data is not beside this checkout")
    data = Path(os.path.relpath(data))  # what the page says should hold on another machine, too
    console = Console(stderr=True)
    model = str(data / "weights" / "rnet9_x4.pt")
    config = RunConfig(
        model, str(data / "validation"), str(data / "calibration"), "psnr_y_db,bitops", image_limit=IMAGES
    )
    run = Run.create(folder, config)
    search_run(run, str(TRIALS), console)
    history, network = load_history(folder / "search"), run.network()
    rows = [compare(history.points, bits, network) for bits in UNIFORM]
    unseen(network, rows, history.points, data)
    select_point([folder], {"max_drop_db": 0.2}, console)
    shown = gather(run, pictures=samples.search_pairs(4))
    write_report(HERE / "report.html", shown)
    save_front(HERE / "front.svg", shown, "bitops")
    save_crop(HERE / "crop.png", shown.crops[1])
    write(rows, history, len(front(history.points, history.objectives)))


def write(rows: list[dict[str, Any]], history: Any, on_front: int) -> None:
    """The table and the page."""
    minutes = sum(point.seconds for point in history.points) / 60
    write_json(HERE / "table.json", {"trials": len(history.points), "on_front": on_front, "trial_minutes": minutes,
                                     "conditions": {key: value for key, value in history.conditions.items()
                                                    if key in ("cpu", "protocol", "size", "threads", "date")},
                                     "rows": rows})  # fmt: skip
    main_rows = "\n".join(
        f"| w{r['bits']}a{r['bits']} | {r['bitops'] / 1e12:.3f} T | {r['psnr_y_db']:.3f} "
        f"| {100 * r['fewer_bitops']:.1f} % "
        f"| {r['more_psnr_db']:+.3f} dB | {'yes' if r['beaten'] else 'no'} |"
        for r in rows
    )
    unseen_rows = "\n".join(
        f"| w{r['bits']}a{r['bits']} | {r['uniform_Set5']:.3f} | {r['uniform_Set14']:.3f} | {r['best']} "
        f"| {r['found_Set5']:.3f} | {r['found_Set14']:.3f} |"
        for r in rows
    )
    page = PAGE.format(trials=len(history.points), cpu=history.conditions["cpu"], minutes=minutes, images=IMAGES,
                       rows=main_rows, unseen=unseen_rows)  # fmt: skip
    write_atomic(HERE / "README.md", page)
    print(json.dumps({"beaten": [r["bits"] for r in rows if r["beaten"]], "trials": len(history.points)}))


if __name__ == "__main__":
    main()
