"""`qsearch eval`: how good a network is, in float, in integers or as an artefact."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch.commands.compile import integer_folder
from qsearch.compile.host import HostNetwork
from qsearch.compile.manifest import read_manifest
from qsearch.compile.run_artefact import run_executable
from qsearch.ensemble import Upscaler, self_ensemble
from qsearch.evaluation import evaluate
from qsearch.integer.storage import PROGRAM, load_program
from qsearch.models import load
from qsearch.run import pairs_of


def evaluate_model(model: str, images: str, limit: int | None, ensemble: bool, console: Console) -> dict[str, Any]:
    """PSNR and SSIM on the images of a folder, or on `samples`; with `ensemble` the mean of eight turns."""
    upscale, run = _upscaler(model)
    score = evaluate(self_ensemble(run) if ensemble else run, pairs_of(images, upscale, limit), upscale)
    how = " by self-ensemble" if ensemble else ""
    console.print(
        f"PSNR {score.psnr_y_db:.3f} dB, SSIM {score.ssim_y:.4f}{how} on {score.images} images ({score.protocol})"
    )
    return {"model": model, "self_ensemble": ensemble, **asdict(score)}


def _upscaler(model: str) -> tuple[int, Upscaler]:
    """The upscale, and what upscales: an artefact's executable, an integer network's kernels, or the float network."""
    folder = integer_folder(Path(model))
    if (folder / "manifest.json").is_file():
        return int(read_manifest(folder)["upscale"]), lambda image: run_executable(folder, image)
    if (folder / PROGRAM).is_file():
        host = HostNetwork(load_program(folder))
        return host.plan.upscale, host.run
    network = load(model)
    return network.upscale, network.run
