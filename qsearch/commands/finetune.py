"""`qsearch finetune`: polish the quantizers of a point of a search, or of a quantized network, without ground truth."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch.fx import GraphModule

from qsearch.allocation import Allocation, QuantizerKind
from qsearch.commands.models import MODELS, chosen_run
from qsearch.commands.progress import bar
from qsearch.commands.quantize import ALLOCATION, SUMMARY, parse_bits, quantized_costs
from qsearch.commands.search import selected_point
from qsearch.commands.unseen import unseen_pairs
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.evaluation import Score, evaluate
from qsearch.files import require_free, staged_folder, write_json
from qsearch.images import Pair
from qsearch.integer.storage import save_program
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.quant.choice import with_quantizers
from qsearch.quant.finetune import finetune
from qsearch.quant.finetune_settings import FineTuneSettings
from qsearch.quant.finetuned import FineTuned
from qsearch.run import CONFIG, PARAMETERS, Run, calibration_images, pairs_of
from qsearch.search import Point, front, load_history, parse_objectives
from qsearch.search.front import write_front
from qsearch.search.history import FRONT, polish

CALIBRATION_CROPS = 32


@dataclass(frozen=True)
class Polish:
    """What is fine-tuned, the low-resolution images for it, and the pairs that it does not see."""

    model: str
    network: CalibratedNetwork
    allocation: Allocation
    images: Sequence[NDArray[np.uint8]]
    pairs: Sequence[Pair]
    judged_on: str
    """What the pairs are, in words."""
    run: Run | None = None
    point: Point | None = None
    """The point of `run` that it is, if any."""


def from_run(folder: Path, point: int | None, images: str | None, limit: int | None, console: Console) -> Polish:
    """The selected (or the named) point of a run, to be judged on `images` that the search has not seen.

    Without `images` these are the ones of the run's folder that its limit left out, or else bundled photographs.
    """
    run = Run.open(chosen_run(folder))
    found = selected_point(run, point)
    if found.polished:
        raise QsearchError(f"point {found.number} of {folder} is fine-tuned already: see {run.polished(found.number)}")
    lr_images = calibration_images(run.config.calibration, run.model.upscale, limit)
    pairs, judged_on = unseen_pairs(run, images, lr_images)
    with bar(console, "calibrating") as progress:
        network = run.network(progress)
    return Polish(run.config.model, network, found.allocation, lr_images, pairs, judged_on, run, found)


def from_model(
    model: str,
    bits: str,
    allocation_file: Path | None,
    quantizer: QuantizerKind | None,
    calibration: str,
    images: str,
    limit: int | None,
    console: Console,
) -> Polish:
    """A network with uniform bits and the `quantizer` (None: the better one at each site), or with an allocation."""
    loaded = load(model)
    pairs = pairs_of(images, loaded.upscale, limit)
    lr_images = calibration_images(calibration, loaded.upscale, limit)
    with bar(console, "calibrating") as progress:
        network = CalibratedNetwork.make(loaded, lr_images[:CALIBRATION_CROPS], progress=progress)
    if allocation_file is not None:
        allocation = Allocation.load(allocation_file)
        allocation.check(network.sites)
    else:
        allocation = with_quantizers(network.calibration, parse_bits(bits, network.sites), quantizer)
    return Polish(model, network, allocation, lr_images, pairs, images)


def is_run(source: str) -> bool:
    """Whether `source` is the folder of a search rather than a model."""
    return (Path(source) / CONFIG).is_file() or (Path(source) / MODELS).is_file()


def finetune_and_store(job: Polish, out: Path | None, settings: FineTuneSettings, console: Console) -> dict[str, Any]:
    """Fine-tune, compare on the pairs, and store the better integer network in `out`, as `qsearch quantize` does.

    Without `out` it goes into the folder of the run, and where the fine-tuned network is the better one it replaces the
    point, with its metrics on the run's own images, for `select`, `compile` and `report`. A command that was killed
    continues from the checkpoint beside `out`, which goes when `out` is there.
    """
    in_run = out is None
    if out is None:
        if job.run is None or job.point is None:
            raise QsearchError("give --out: only a point of a run has a place of its own")
        out = job.run.polished(job.point.number)
    require_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = out.with_name(f"{out.name}.checkpoint.pt")
    with bar(console, "fine-tuning") as progress:
        tuned = finetune(job.network.calibration, job.allocation, job.images, settings, None, checkpoint, progress)
    programs = {
        "calibrated": job.network.program(job.allocation),
        "fine-tuned": job.network.program(job.allocation, tuned),
    }
    scores = _scores(job, programs)
    kept = "fine-tuned" if scores["fine-tuned"].psnr_y_db > scores["calibrated"].psnr_y_db else "calibrated"
    summary = {
        "model": job.model,
        "upscale": job.network.model.upscale,
        "kept": kept,
        "judged_on": job.judged_on,
        "score": asdict(scores[kept]),
        "calibrated_score": asdict(scores["calibrated"]),
        "finetuned_score": asdict(scores["fine-tuned"]),
        "float_score": asdict(scores["float"]),
        "costs": quantized_costs(job.network, job.allocation),
        "settings": asdict(settings),
    }
    with staged_folder(out) as folder:
        save_program(programs[kept], folder)
        job.allocation.save(folder / ALLOCATION)
        tuned.save(folder / PARAMETERS)
        write_json(folder / SUMMARY, summary)
    checkpoint.unlink(missing_ok=True)
    quality = ", ".join(f"{score.psnr_y_db:.3f} dB {name}" for name, score in scores.items())
    judged = f"{scores[kept].images} images ({job.judged_on})"
    console.print(f"{job.network.model.name}: {quality} on {judged}; {out} holds the {kept} one")
    if in_run and job.run is not None and job.point is not None:
        if kept == "fine-tuned":
            summary["point"] = {"point": job.point.number, **_replace(job.run, job.network, job.point, tuned, console)}
        else:
            console.print(f"point {job.point.number} stays as it is: fine-tuning made it no better there")
    return {"out": str(out), **summary}


def _scores(job: Polish, programs: Mapping[str, GraphModule]) -> dict[str, Score]:
    """Every program and the float network on the pairs."""
    host, upscale = HostNetwork(programs["calibrated"]), job.network.model.upscale
    scores = {}
    for name, program in programs.items():
        host.set_program(program)
        scores[name] = evaluate(host.run, job.pairs, upscale)
    return {**scores, "float": evaluate(job.network.model.run, job.pairs, upscale)}


def _replace(
    run: Run, network: CalibratedNetwork, point: Point, tuned: FineTuned, console: Console
) -> dict[str, float]:
    """Put the fine-tuned network in the place of a point of the search: its metrics, measured as the search does."""
    with run.pool(console.print) as pool:
        measured = run.measurer(network, pool)(point.allocation, tuned)
    metrics = {**point.metrics, **measured}
    search = run.folder / "search"
    polish(search, point.number, metrics)
    points, objectives = load_history(search).points, parse_objectives(run.config.objectives)
    write_front(search / FRONT, points, objectives)
    still = "" if any(found.number == point.number for found in front(points, objectives)) else ", off the front now"
    console.print(
        f"point {point.number} is replaced{still}: "
        f"{point.metrics['psnr_y_db']:.3f} → {metrics['psnr_y_db']:.3f} dB on the images of the search"
    )
    return metrics
