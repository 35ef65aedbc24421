"""Outlier-aware post-training quantization: published and own methods, from the integer network, on real images.

    python results/outlier-ptq/run.py [--processes 2] [--latency]

needs ../shared/data. Every row of every table is one job of one thread; what is done is kept in table.json, and a
second run of the command continues. `--latency` times at the end, alone and on a quiet machine. README.md is made
from the table. Settings were chosen by crops of the DIV2K validation set, never by the images of the tables.
"""

import argparse
import json
import multiprocessing
import platform
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from latency import measure_latency
from methods import BASELINES, METHODS, OUR_ROWS, PER_TENSOR_ROWS, PUBLISHED_ROWS, SPANS
from numpy.typing import NDArray
from page import write_page

from qsearch.compile.host import HostNetwork
from qsearch.data import shared_data
from qsearch.evaluation import Upscaler, evaluate
from qsearch.files import write_json
from qsearch.host import detect_host
from qsearch.images import Pair, read_lr_images, read_pairs
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.quant.moving import moving_ranges
from qsearch.quant.printed import as_printed

HERE = Path(__file__).parent
NETWORKS = ("rnet9_x4.pt", "edsr_r8f64_x2.pt", "srresnet_bn8_x4.pt")
SETS = ("Set5", "Set14", "B100")
BRIGHT_SHARE, BRIGHT = 0.05, 250
"""An image is bright or saturated when so many of its values are at least so large."""
PASS_SHARE = 20
"""One calibration image in so many is timed in float."""
Job = tuple[str, int, str]
Image = NDArray[np.uint8]


def jobs() -> list[Job]:
    """(network, bits, method); the longest first."""
    found: list[Job] = []
    for name in NETWORKS:
        rows = [*BASELINES, "PLQ of least error", "+ SAFT", "+ fitted weights", "+ fitted weights + SAFT"]
        if name == NETWORKS[0]:
            rows = [method.name for method in (*PER_TENSOR_ROWS, *PUBLISHED_ROWS, *OUR_ROWS, *SPANS)]
        found += [(name, 4, row) for row in rows]
        found += [(name, 6, row) for row in ("+ SAFT", "+ fitted weights + SAFT")]
    return sorted(found, key=lambda job: (METHODS[job[2]].settings is None, NETWORKS.index(job[0])))


@cache
def network_of(name: str) -> tuple[CalibratedNetwork, list[Image], float]:
    """The calibrated network, the images, and the seconds that calibration took."""
    torch.set_num_threads(1)
    folder = shared_data()
    assert folder is not None
    model, images = load(folder / "weights" / name), read_lr_images(folder / "calibration")
    start = time.process_time()
    network = CalibratedNetwork.make(model, images)
    return network, images, time.process_time() - start


@cache
def pairs_of(upscale: int) -> dict[str, list[Pair]]:
    """By image set."""
    folder = shared_data()
    assert folder is not None
    return {name: read_pairs(folder / "benchmarks" / name / f"x{upscale}", upscale) if name != "B100"
            else read_pairs(folder / "benchmarks" / name, upscale) for name in SETS}  # fmt: skip


@cache
def bright_of(name: str) -> list[tuple[Image, Image]]:
    """Low-resolution bright or saturated images of all sets, and what the float network makes of them."""
    model = network_of(name)[0].model
    pairs = [pair for of_set in pairs_of(model.upscale).values() for pair in of_set]
    return [(pair.lr, model.run(pair.lr)) for pair in pairs if (pair.hr >= BRIGHT).mean() >= BRIGHT_SHARE]


@cache
def float_row(name: str) -> dict[str, Any]:
    """What the float network gives, and the seconds of one pass over the calibration images (by some of them)."""
    network, images, calibration_s = network_of(name)
    timed = images[::PASS_SHARE]
    start = time.process_time()
    for image in timed:
        network.model.run(image)
    pass_s = (time.process_time() - start) * sum(image.size for image in images) / sum(image.size for image in timed)
    return {"sets": scores(network.model.run, network), "pass_s": pass_s, "calibration_s": calibration_s}


def scores(run: Upscaler, network: CalibratedNetwork) -> dict[str, dict[str, Any]]:
    """PSNR and SSIM by image set."""
    found = {}
    for name, pairs in pairs_of(network.model.upscale).items():
        score = evaluate(run, pairs, network.model.upscale)
        found[name] = {"psnr_y_db": score.psnr_y_db, "ssim_y": score.ssim_y, "protocol": score.protocol}
    return found


def do(job: Job) -> dict[str, Any]:
    """One row, with the processor's seconds of one thread that its parameters took after calibration."""
    name, bits, row = job
    method = METHODS.get(row)
    if method is None:
        return float_row(name)
    network, images, _ = network_of(name)
    start = time.process_time()
    allocation = method.allocation(network, bits)
    if method.printed:
        graph = as_printed(network.calibration, allocation, moving_ranges(network.calibration, images))
        seconds = time.process_time() - start
        run: Upscaler = replace(network.model, module=graph).run
    else:
        parameters = method.parameters(network, allocation, images, lambda done, total: None)
        seconds = time.process_time() - start
        run = HostNetwork(network.program(allocation, parameters), threads=1).run
    off = np.array([(run(lr).astype(np.float64) - shown).mean((0, 1)) for lr, shown in bright_of(name)])
    colour = {"images": len(off), "mean": off.mean(0).tolist(), "worst": float(np.abs(off).max()),
              "worst_mean": float(np.abs(off.mean(0)).max())}  # fmt: skip
    return {"sets": scores(run, network), "seconds": seconds, "colour": colour}


def main() -> None:
    """Do what is left, then time where asked, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--latency", action="store_true")
    given = parser.parse_args()
    if shared_data() is None:
        raise SystemExit("the benchmark data folder ../shared/data is not beside this checkout")
    table = Table(HERE / "table.json")
    todo = [job for job in [*((name, 32, "float") for name in NETWORKS), *jobs()] if not table.has(job)]
    with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(do, job): job for job in todo}
        for done in as_completed(running):
            table.add(running[done], done.result())
            print(*running[done], {k: round(v["psnr_y_db"], 3) for k, v in done.result()["sets"].items()}, flush=True)
    if given.latency:
        network, images, _ = network_of(NETWORKS[0])
        table.set("latency", measure_latency(network, images))
    write_page(HERE / "README.md", table.content)


class Table:
    """What is done, in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": {}}

    def has(self, job: Job) -> bool:
        """Whether the row is there."""
        return " ".join(map(str, job)) in self.content["rows"]

    def add(self, job: Job, row: dict[str, Any]) -> None:
        """Keep a row."""
        self.content["rows"][" ".join(map(str, job))] = row
        self.set("cpu", detect_host().cpu)

    def set(self, key: str, value: Any) -> None:
        """Keep a value, the date with it."""
        self.content |= {
            key: value,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "python": platform.python_version(),
        }
        write_json(self.path, self.content)


if __name__ == "__main__":
    main()
