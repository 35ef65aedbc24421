"""`qsearch report`: gathers what the page shows from a run folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from qsearch.commands.models import chosen_run
from qsearch.commands.search import SELECTED, bits_label, selected_point
from qsearch.compile.host import HostNetwork
from qsearch.files import read_json
from qsearch.images import Pair, resize_bicubic
from qsearch.metrics import Protocol, psnr
from qsearch.network import CalibratedNetwork
from qsearch.quant.piecewise import inside_share
from qsearch.report import Crop, Picture, ReportData, write_report
from qsearch.run import Run
from qsearch.search import Point, load_history, read_sensitivity
from qsearch.search.history import SENSITIVITY

CROP_SIDE = 96
CROPS = 3


def report_run(run_folder: Path, out: Path | None, console: Console, artefact: Path | None = None) -> Path:
    """Write the page of a run; the selected point, if any, is its winner."""
    run = Run.open(chosen_run(run_folder))
    page = out or run.folder / "report.html"
    write_report(page, gather(run, artefact))
    console.print(f"report {page}")
    return page


def gather(run: Run, artefact: Path | None = None, pictures: Sequence[Pair] | None = None) -> ReportData:
    """Everything that a run's folder says; the crops, of `pictures` or the run's own images, are upscaled anew."""
    folder = run.folder / "search"
    history, network = load_history(folder), run.network()
    winner = selected_point(run) if (run.folder / SELECTED).is_file() else None
    return ReportData(
        title=f"{run.model.name} ×{run.model.upscale}",
        sites=network.sites,
        objectives=history.objectives,
        points=history.points,
        conditions=history.conditions,
        references=history.references,
        winner=winner,
        reason=str(read_json(run.folder / SELECTED)["reason"]) if winner else "",
        pieces=_pieces(run, network, winner) if winner else {},
        sensitivity=read_sensitivity(folder / SENSITIVITY),
        crops=_crops(run, network, winner, pictures or run.pairs) if winner else (),
        commands=_commands(artefact) if artefact else (),
    )


def _pieces(run: Run, network: CalibratedNetwork, winner: Point) -> dict[str, str]:
    """The piecewise quantizers of a point in words, as calibration or fine-tuning left them."""
    tuned = run.finetuned(winner)
    found = {}
    for site, setting in winner.allocation.sites.items():
        if setting.quantizer == "piecewise":
            grid = tuned.grids[site] if tuned else network.calibration.grid(site, setting)
            inside = inside_share(network.calibration.stats[site], grid)
            ratio = grid.pieces[2] if grid.pieces else 1
            found[site] = f"{setting.bits} bits piecewise, {inside:.1%} inside, outer steps {ratio} ×, span {grid.span}"
    return found


def _crops(run: Run, network: CalibratedNetwork, winner: Point, pictures: Sequence[Pair]) -> list[Crop]:
    host = HostNetwork(network.program(winner.allocation, run.finetuned(winner)), run.config.threads)
    label = bits_label(winner.allocation)
    return [_crop(run, pair, host.run(pair.lr), label) for pair in pictures[:CROPS]]


def _crop(run: Run, pair: Pair, result: NDArray[np.uint8], label: str) -> Crop:
    upscale = run.model.upscale
    top, left = _busiest(pair.hr)
    window = np.s_[top : top + CROP_SIDE, left : left + CROP_SIDE]
    protocol = Protocol(crop=upscale)
    versions = {"bicubic": resize_bicubic(pair.lr, upscale), "float": run.model.run(pair.lr), label: result}
    pictures = [
        Picture(name, image[window], f"{psnr(image, pair.hr, protocol):.2f} dB") for name, image in versions.items()
    ]
    return Crop(pair.name, [*pictures, Picture("original", pair.hr[window])])


def _busiest(image: NDArray[np.uint8]) -> tuple[int, int]:
    """Top and left of the window with the most contrast, where upscaling shows."""
    best, where = -1.0, (0, 0)
    for top in range(0, max(image.shape[0] - CROP_SIDE, 1), CROP_SIDE // 2):
        for left in range(0, max(image.shape[1] - CROP_SIDE, 1), CROP_SIDE // 2):
            contrast = float(image[top : top + CROP_SIDE, left : left + CROP_SIDE].std())
            if contrast > best:
                best, where = contrast, (top, left)
    return where


def _commands(artefact: Path) -> list[tuple[str, str]]:
    return [
        ("upscale a picture of any size", f"qsearch upscale photo.png --artefact {artefact} -o big.png"),
        ("check every byte", f"qsearch verify {artefact}"),
        ("time it on this machine", f"qsearch bench {artefact}"),
    ]
