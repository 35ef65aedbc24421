"""Networks: train, evaluate, quantize, fine-tune."""

from pathlib import Path
from typing import Annotated, Any

import typer

from qsearch.cli.app import CalibrationOption, ImagesOption, ModelOption, OutOption, app, console, finish
from qsearch.errors import QsearchError


@app.command()
def train(
    model: Annotated[
        str, typer.Argument(help="A configuration such as abpn_x3 or edsr_r8f32_x2, or a checkpoint to start from.")
    ],
    images: Annotated[
        list[str], typer.Option(help="Folder of original images; give it several times for several folders.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the weights and the checkpoint; the same command continues.")],
    validation: Annotated[
        str | None, typer.Option(help="Folder of originals on which the kept weights are chosen.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Optimizer steps; 50,000, or 5,000 of an allocation.")] = None,
    batch: Annotated[int, typer.Option(help="Patches per step.")] = 8,
    patch: Annotated[int, typer.Option(help="Side of a low-resolution patch in pixels.")] = 48,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak of Adam's learning rate; 1e-3, or 5e-3 of an allocation, whose rates are relative."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the first weights and every patch.")] = 0,
    bits: Annotated[str | None, typer.Option(help="Train quantized with bits such as w4a4 or fqsr-4-4-8.")] = None,
    allocation: Annotated[Path | None, typer.Option(help="Train quantized with this allocation file.")] = None,
    point: Annotated[int | None, typer.Option(help="Of a run folder: a point instead of the selected one.")] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Quantized: begin at the parameters in the folder (or file) that `finetune` or `train` wrote."
        ),
    ] = None,
    intervals: Annotated[
        str, typer.Option(help="Quantized: learned from the maximum or from calibration, or fixed.")
    ] = "maximum",
    calibration_weight: Annotated[float, typer.Option(help="Quantized: weight of FQSR's calibration loss.")] = 0.3,
    teacher: Annotated[
        float, typer.Option(help="Quantized: share of the float network's output, beside the originals, in the loss.")
    ] = 0.0,
    levels: Annotated[
        str, typer.Option(help="Quantized: exact-zero; or for comparison only, fqsr-odd (fake-quantized) or float.")
    ] = "exact-zero",
    calibration: CalibrationOption = "samples",
    test_images: Annotated[
        str, typer.Option(help="Quantized: folder of originals of the score in the summary, or `samples`.")
    ] = "samples",
    limit: Annotated[int | None, typer.Option(min=1, help="Quantized: only the first images of those.")] = 32,
) -> None:
    """Train a network with L1 loss; a killed training continues by the same command.

    With `--bits`, `--allocation` or a run folder as MODEL it trains the integer network: weights, biases and intervals,
    batch normalization folded before. The folder is then one that `compile` takes.
    """
    from qsearch.commands.train import is_quantized, quantized_source, train_allocation, train_float
    from qsearch.training.settings import TrainingSettings, quantized_settings

    given = {"iterations": iterations, "learning_rate": learning_rate}
    common: dict[str, Any] = {
        "batch": batch,
        "patch": patch,
        "seed": seed,
        **{k: v for k, v in given.items() if v is not None},
    }
    if not is_quantized(model, bits, allocation):
        finish(train_float(model, images, out, TrainingSettings(**common), validation, console))
        return
    quantized = {"levels": levels, "calibration_weight": calibration_weight, "teacher": teacher}
    settings = quantized_settings(intervals, **quantized, **common)
    source = quantized_source(model, out, bits, allocation, point, calibration, test_images, limit, console)
    finish(train_allocation(source, images, out, settings, validation, start, console))


@app.command("eval")
def evaluate_command(
    model: Annotated[
        str,
        typer.Argument(
            help="A bundled name, a checkpoint, file.py:factory, or the folder of an artefact or of an integer network."
        ),
    ],
    images: ImagesOption = "samples",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
    self_ensemble: Annotated[
        bool, typer.Option("--self-ensemble", help="Mean of the results on the eight turns of each image.")
    ] = False,
) -> None:
    """PSNR and SSIM of a float or integer network or of an artefact, with the protocol written beside them."""
    from qsearch.commands.evaluate import evaluate_model

    finish(evaluate_model(model, images, limit, self_ensemble, console))


@app.command()
def quantize(
    model: ModelOption,
    out: OutOption,
    bits: Annotated[str, typer.Option(help="Uniform bits such as w8a8 or w4a8.")] = "w8a8",
    allocation: Annotated[Path | None, typer.Option(help="Allocation file instead of uniform bits.")] = None,
    calibration: CalibrationOption = "samples",
    images: ImagesOption = "samples",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images of each folder.")] = 32,
    onnx: Annotated[
        str | None, typer.Option(help="Also write model.onnx: `qdq` for other runtimes, `exact` for the same bytes.")
    ] = None,
) -> None:
    """Quantize a network without ground truth and write its integer program; no search."""
    from qsearch.commands.quantize import quantize_model

    finish(quantize_model(model, out, bits, allocation, calibration, images, limit, onnx, console))


@app.command("finetune")
def finetune_command(
    source: Annotated[str, typer.Argument(help="A run folder (its selected point), or a model as for `quantize`.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Output folder, new or empty; without it the result replaces the point of the run, if better."
        ),
    ] = None,
    point: Annotated[int | None, typer.Option(help="Number of a point of the run instead of the selected one.")] = None,
    bits: Annotated[str, typer.Option(help="Of a model: uniform bits such as w4a4.")] = "w4a4",
    allocation: Annotated[
        Path | None, typer.Option(help="Of a model: allocation file instead of uniform bits.")
    ] = None,
    quantizer: Annotated[
        str, typer.Option(help="Of a model without allocation: uniform, piecewise, or better (of the two, by site).")
    ] = "better",
    calibration: CalibrationOption = "samples",
    images: Annotated[
        str | None,
        typer.Option(
            help="Folder of originals to decide on, or `samples`; of a run by default images that its search did not see."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images of each folder.")] = 100,
    iterations: Annotated[int | None, typer.Option(min=0, help="Optimizer steps.")] = None,
    fixed_weights: Annotated[bool, typer.Option(help="Train the quantizers alone: no rounding, no bias.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the crops.")] = 0,
) -> None:
    """Fine-tune quantizers against the float network, without ground truth; keep the result only where it is better."""
    from qsearch.commands.finetune import finetune_and_store, from_model, from_run, is_run
    from qsearch.quant.finetune_settings import settings_of

    if quantizer not in ("uniform", "piecewise", "better"):
        raise QsearchError(f"--quantizer must be uniform, piecewise or better, not {quantizer!r}")
    if out is None and not is_run(source):
        raise QsearchError("give --out: only a point of a run has a place of its own")
    settings = settings_of(iterations, fixed_weights, seed)
    if is_run(source):
        polish = from_run(Path(source), point, images, limit, console)
    else:
        kind = None if quantizer == "better" else quantizer
        polish = from_model(source, bits, allocation, kind, calibration, images or "samples", limit, console)  # type: ignore[arg-type]
    finish(finetune_and_store(polish, out, settings, console))
