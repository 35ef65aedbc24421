"""`qsearch finetune`: polish the quantizers of a point of a search, or of a quantized network, without ground truth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from qsearch.allocation import Allocation, QuantizerKind
from qsearch.commands.progress import bar
from qsearch.commands.quantize import ALLOCATION, SUMMARY, parse_bits, quantized_costs
from qsearch.commands.search import selected_point
from qsearch.compile.host import HostNetwork
from qsearch.evaluation import evaluate
from qsearch.files import require_free, staged_folder, write_json
from qsearch.images import Pair
from qsearch.integer.storage import save_program
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.quant.choice import with_quantizers
from qsearch.quant.finetune import finetune
from qsearch.quant.finetune_settings import FineTuneSettings
from qsearch.run import CONFIG, Run, calibration_images, pairs_of

PARAMETERS = "finetuned.safetensors"
CALIBRATION_CROPS = 32


@dataclass(frozen=True)
class Polish:
    """What is fine-tuned, the low-resolution images for it, and the pairs that it does not see."""

    model: str
    network: CalibratedNetwork
    allocation: Allocation
    images: Sequence[NDArray[np.uint8]]
    pairs: Sequence[Pair]


def from_run(folder: Path, point: int | None, limit: int | None, console: Console) -> Polish:
    """The selected (or the named) point of a run, on the run's own images."""
    run = Run.open(folder)
    allocation = selected_point(run, point).allocation
    with bar(console, "calibrating") as progress:
        network = run.network(progress)
    images = calibration_images(run.config.calibration, run.model.upscale, limit)
    return Polish(run.config.model, network, allocation, images, run.pairs)


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
    return Polish(model, network, allocation, lr_images, pairs)


def is_run(source: str) -> bool:
    """Whether `source` is the folder of a search rather than a model."""
    return (Path(source) / CONFIG).is_file()


def finetune_and_store(polish: Polish, out: Path, settings: FineTuneSettings, console: Console) -> dict[str, Any]:
    """Fine-tune, compare on the pairs, and store the better integer network in `out`, as `qsearch quantize` does.

    A run that was killed continues from the checkpoint beside `out`, which goes when `out` is there.
    """
    require_free(out)
    network, upscale = polish.network, polish.network.model.upscale
    checkpoint = out.with_name(f"{out.name}.checkpoint.pt")
    with bar(console, "fine-tuning") as progress:
        tuned = finetune(network.calibration, polish.allocation, polish.images, settings, None, checkpoint, progress)
    programs = {
        "calibrated": network.program(polish.allocation),
        "fine-tuned": network.program(polish.allocation, tuned),
    }
    host = HostNetwork(programs["calibrated"])
    scores = {}
    for name, program in programs.items():
        host.set_program(program)
        scores[name] = evaluate(host.run, polish.pairs, upscale)
    kept = max(scores, key=lambda name: scores[name].psnr_y_db)
    floating = evaluate(network.model.run, polish.pairs, upscale)
    summary = {
        "model": polish.model,
        "upscale": upscale,
        "kept": kept,
        "score": asdict(scores[kept]),
        "calibrated_score": asdict(scores["calibrated"]),
        "finetuned_score": asdict(scores["fine-tuned"]),
        "float_score": asdict(floating),
        "costs": quantized_costs(network, polish.allocation),
        "settings": asdict(settings),
    }
    with staged_folder(out) as folder:
        save_program(programs[kept], folder)
        polish.allocation.save(folder / ALLOCATION)
        tuned.save(folder / PARAMETERS)
        write_json(folder / SUMMARY, summary)
    checkpoint.unlink(missing_ok=True)
    quality = ", ".join(f"{score.psnr_y_db:.3f} dB {name}" for name, score in {"in float": floating, **scores}.items())
    console.print(f"{network.model.name}: {quality} on {floating.images} images; {out} holds the {kept} one")
    return {"out": str(out), **summary}
