"""`qsearch train`: a float network, or with an allocation its integer network, by quantization-aware training."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch.allocation import Allocation
from qsearch.commands.progress import bar
from qsearch.commands.quantize import ALLOCATION, SUMMARY, parse_bits, quantized_costs
from qsearch.commands.search import selected_point
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.evaluation import evaluate
from qsearch.files import write_json
from qsearch.integer.storage import save_program
from qsearch.models import build, load
from qsearch.network import CalibratedNetwork
from qsearch.passes import prepare
from qsearch.quant import Calibration
from qsearch.quant.finetuned import FineTuned
from qsearch.run import CONFIG, PARAMETERS, Run, calibration_images, pairs_of
from qsearch.training import QuantizedResult, QuantizedSettings, TrainingSettings, train, train_quantized
from qsearch.training.qat import CALIBRATION, TRAINED

CALIBRATION_IMAGES = 32
COMPARED_SUMMARY = "compared.json"


@dataclass(frozen=True)
class Source:
    """What is trained quantized, and the images that its float range and its score come from."""

    model: str
    network: CalibratedNetwork
    allocation: Allocation
    images: str
    limit: int | None


def train_float(
    model: str, folders: list[str], out: Path, settings: TrainingSettings, validation: str | None, console: Console
) -> dict[str, Any]:
    """Train a named configuration from random weights, or a checkpoint from its own."""
    start = load(model) if Path(model).is_file() else build(model, settings.seed)
    result = train(start, folders, out, settings, validation, console)
    return {**asdict(result), "weights": str(result.weights)}


def train_allocation(
    source: Source,
    folders: list[str],
    out: Path,
    settings: QuantizedSettings,
    validation: str | None,
    start: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Train an allocation and leave in `out` what `qsearch quantize` leaves, with the trained parameters.

    What is only for comparison leaves its weights and the summary, and nothing to compile.
    """
    network, allocation, upscale = source.network, source.allocation, source.network.model.upscale
    pairs = pairs_of(source.images, upscale, source.limit)
    first = _parameters(start) if start is not None else None
    result = train_quantized(network, allocation, folders, out, settings, validation, console, first)
    summary: dict[str, Any] = {
        "model": source.model,
        "upscale": upscale,
        "validation_psnr_y_db": result.psnr_db if validation is not None else None,
        "kept_iteration": result.iteration,
        "levels": settings.levels,
        "settings": asdict(settings),
        "training_images": [Path(folder).name for folder in folders],
    }
    if result.parameters is None:
        console.print(f"{network.model.name}: levels {settings.levels} are for comparison; nothing to compile")
        write_json(out / COMPARED_SUMMARY, summary)
        return {"out": str(out), **summary}
    return {"out": str(out), **_store(source, result, summary, pairs, out, console)}


def _store(
    source: Source, result: QuantizedResult, summary: dict[str, Any], pairs: list[Any], out: Path, console: Console
) -> dict[str, Any]:
    network, allocation, upscale = source.network, source.allocation, source.network.model.upscale
    program = network.program(allocation, result.parameters)
    host = HostNetwork(program)
    score = evaluate(host.run, pairs, upscale)
    host.set_program(network.program(allocation))
    calibrated = evaluate(host.run, pairs, upscale)
    floating = evaluate(network.model.run, pairs, upscale)
    summary = {
        **summary,
        "score": asdict(score),
        "calibrated_score": asdict(calibrated),
        "float_score": asdict(floating),
        "costs": quantized_costs(network, allocation),
    }
    save_program(program, out)
    allocation.save(out / ALLOCATION)
    write_json(out / SUMMARY, summary)
    console.print(
        f"{network.model.name}: {floating.psnr_y_db:.3f} dB in float, {calibrated.psnr_y_db:.3f} dB quantized, "
        f"{score.psnr_y_db:.3f} dB trained, in integers, on {score.images} images ({score.protocol})"
    )
    return summary


def _parameters(start: Path) -> FineTuned:
    """What `finetune` or `train` left in a file, or in the folder of it."""
    within = [start / name for name in (TRAINED, PARAMETERS) if (start / name).is_file()]
    return FineTuned.load(within[0] if within else start)


def quantized_source(
    model: str,
    out: Path,
    bits: str | None,
    allocation_file: Path | None,
    point: int | None,
    calibration: str,
    images: str,
    limit: int | None,
    console: Console,
) -> Source:
    """The selected (or named) point of a run, or a model with the bits or the allocation given.

    A run that is continued has its calibration in `out`. A run's point may be trained with other bits.
    """
    run = Run.open(Path(model)) if (Path(model) / CONFIG).is_file() else None
    if run is not None:
        with bar(console, "calibrating") as progress:
            network = run.network(progress)
        model, images, limit = run.config.model, run.config.images, run.config.image_limit
    elif point is not None:
        raise QsearchError(f"--point needs a run folder, and {model} is none")
    else:
        network = _calibrated(model, out, calibration, limit, console)
    if allocation_file is not None:
        allocation = Allocation.load(allocation_file)
    elif bits is not None:
        allocation = parse_bits(bits, network.sites)
    else:
        assert run is not None
        allocation = selected_point(run, point).allocation
    allocation.check(network.sites)
    return Source(model, network, allocation, images, limit)


def _calibrated(model: str, out: Path, calibration: str, limit: int | None, console: Console) -> CalibratedNetwork:
    loaded = load(model)
    if (out / CALIBRATION).is_file():
        return CalibratedNetwork(loaded, Calibration.load(out / CALIBRATION, prepare(loaded.module)))
    images = calibration_images(calibration, loaded.upscale, limit)[:CALIBRATION_IMAGES]
    with bar(console, "calibrating") as progress:
        return CalibratedNetwork.make(loaded, images, progress=progress)


def is_quantized(model: str, bits: str | None, allocation: Path | None) -> bool:
    """Whether what is asked for is quantization-aware training."""
    return bits is not None or allocation is not None or (Path(model) / CONFIG).is_file()
