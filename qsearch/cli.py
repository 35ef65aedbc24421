"""The command line: one thin command per stage; the last line of standard output of each is one JSON object."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from qsearch.errors import QsearchError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Search the quantization of a super-resolution network, compile the winner, measure it, select it.\n\n"
    "Start with `qsearch demo`. Every command prints what it does on standard error and one JSON object on standard "
    "output. A mistake in the input is one line and exit status 2.",
)
console = Console(stderr=True, highlight=False, soft_wrap=True)

ModelOption = Annotated[
    str, typer.Argument(help="A bundled name, a checkpoint (.safetensors, .pt, .pth) or file.py:factory.")
]
ImagesOption = Annotated[
    str,
    typer.Option(
        help="Folder of originals (LR is made by MATLAB bicubic, or taken as stored in *_LR files), or `samples`."
    ),
]
CalibrationOption = Annotated[
    str, typer.Option(help="Folder of low-resolution images, no originals needed, or `samples`.")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads; all processors by default.")]
SizeOption = Annotated[str, typer.Option(help="LR width×height, as in 320x180.")]
OutOption = Annotated[Path, typer.Option(help="Output folder; must be new or empty.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command continues it.")] = Path("runs/demo"),
    budget: Annotated[str, typer.Option(help="Time for the search, or a number of trials.")] = "3m",
) -> None:
    """The main job on the bundled model and photographs: search, select, compile, verify, upscale, report."""
    from qsearch.commands.demo import run_demo

    finish(run_demo(out, budget, console))


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
    iterations: Annotated[int, typer.Option(help="Optimizer steps.")] = 50_000,
    batch: Annotated[int, typer.Option(help="Patches per step.")] = 8,
    patch: Annotated[int, typer.Option(help="Side of a low-resolution patch in pixels.")] = 48,
    learning_rate: Annotated[float, typer.Option(help="Peak of Adam's learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Decides the first weights and every patch.")] = 0,
) -> None:
    """Train a float network with L1 loss; a killed training continues by the same command."""
    from qsearch.models import build, load
    from qsearch.training import TrainingSettings
    from qsearch.training import train as run_training

    start = load(model) if Path(model).is_file() else build(model, seed)
    settings = TrainingSettings(iterations=iterations, batch=batch, patch=patch, learning_rate=learning_rate, seed=seed)
    result = run_training(start, images, out, settings, validation, console)
    finish({**asdict(result), "weights": str(result.weights)})


@app.command("eval")
def evaluate_command(
    model: Annotated[
        str, typer.Argument(help="A bundled name, a checkpoint, file.py:factory, or the folder of an artefact.")
    ],
    images: ImagesOption = "samples",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None,
) -> None:
    """PSNR and SSIM of a float network or of a compiled artefact, with the protocol written beside them."""
    from qsearch.compile.manifest import read_manifest
    from qsearch.compile.run_artefact import run_executable
    from qsearch.evaluation import evaluate
    from qsearch.models import load
    from qsearch.run import pairs_of

    if (Path(model) / "manifest.json").is_file():
        upscale = int(read_manifest(model)["upscale"])
        score = evaluate(lambda image: run_executable(model, image), pairs_of(images, upscale, limit), upscale)
    else:
        network = load(model)
        score = evaluate(network.run, pairs_of(images, network.upscale, limit), network.upscale)
    console.print(f"PSNR {score.psnr_y_db:.3f} dB, SSIM {score.ssim_y:.4f} on {score.images} images ({score.protocol})")
    finish({"model": model, **asdict(score)})


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


@app.command()
def search(
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command continues it.")],
    images: ImagesOption = "samples",
    calibration: CalibrationOption = "samples",
    objectives: Annotated[
        str, typer.Option(help="psnr_y_db and costs out of latency_ms, bitops, weight_bytes, peak_bytes.")
    ] = "psnr_y_db,bitops",
    budget: Annotated[str | None, typer.Option(help="Time, as in 90s, 10m, 2h.")] = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials.")] = None,
    size: SizeOption = "320x180",
    limit: Annotated[int | None, typer.Option(min=1, help="Measure on the first images only.")] = None,
    threads: ThreadsOption = None,
    target: Annotated[str, typer.Option(help="Target name or file.")] = "host",
    seed: Annotated[int, typer.Option(help="Seed of calibration crops and sampler.")] = 0,
) -> None:
    """Search the bits of every weight, input and skip operand; kill it at any time and continue by the same command."""
    from qsearch.commands.search import search_run
    from qsearch.run import Run, RunConfig
    from qsearch.target import load_target

    if (budget is None) == (trials is None):
        raise QsearchError("give either --budget (such as 10m) or --trials (such as 200)")
    load_target(target)
    config = RunConfig(model, images, calibration, objectives, parse_size(size), target, threads, limit, seed=seed)
    run = Run.create(out, config)
    finish(search_run(run, budget or str(trials), console))


@app.command()
def select(
    runs: Annotated[list[Path], typer.Argument(help="One or several run folders.")],
    max_latency_ms: Annotated[float | None, typer.Option(help="Best PSNR within this latency.")] = None,
    min_psnr_db: Annotated[float | None, typer.Option(help="Cheapest with at least this PSNR.")] = None,
    max_drop_db: Annotated[float | None, typer.Option(help="Cheapest within this drop from the float network.")] = None,
    max_weight_bytes: Annotated[float | None, typer.Option(help="Limit on the packed weights.")] = None,
    max_bitops: Annotated[float | None, typer.Option(help="Limit on BitOPs at the run's size.")] = None,
    max_peak_bytes: Annotated[float | None, typer.Option(help="Limit on live activations at the run's size.")] = None,
) -> None:
    """Choose a point of the front under limits; the choice is kept in the run folder for `compile` and `report`."""
    from qsearch.commands.search import select_point

    limits = {"max_latency_ms": max_latency_ms, "min_psnr_db": min_psnr_db, "max_drop_db": max_drop_db,
              "max_weight_bytes": max_weight_bytes, "max_bitops": max_bitops, "max_peak_bytes": max_peak_bytes}  # fmt: skip
    finish(select_point(runs, {name: value for name, value in limits.items() if value is not None}, console))


@app.command("compile")
def compile_command(
    source: Annotated[
        Path, typer.Argument(help="A run folder (its selected point) or a folder that `quantize` wrote.")
    ],
    out: OutOption,
    point: Annotated[
        int | None, typer.Option(help="Number of a point of the front instead of the selected one.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Target name or file; the run's by default.")] = None,
    name: Annotated[str | None, typer.Option(help="Prefix of the C symbols and name of the executable.")] = None,
) -> None:
    """Compile an integer network to a static executable, a C library and a manifest that `verify` checks."""
    from qsearch.commands.compile import compile_source

    finish(compile_source(source, out, point, target, name, console))


@app.command()
def verify(artefact: Annotated[Path, typer.Argument(help="Folder of an artefact.")]) -> None:
    """Check every file's SHA-256 and that executable, golden images and integer reference agree byte for byte."""
    from qsearch.compile.run_artefact import verify as verify_artefact

    result = verify_artefact(artefact)
    if not result.ok:
        raise QsearchError(f"{artefact} failed: {'; '.join(result.problems)}")
    console.print(f"{artefact}: {result.files} files, golden bytes and integer reference agree")
    finish({"artefact": str(artefact), "files": result.files, "ok": True})


@app.command()
def bench(
    artefact: Annotated[Path, typer.Argument(help="Folder of an artefact.")],
    size: SizeOption = "320x180",
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs.")] = 20,
    threads: ThreadsOption = None,
    target: Annotated[str | None, typer.Option(help="Target name or file; the artefact's by default.")] = None,
) -> None:
    """Time an artefact as its own process on this machine; the latency and its conditions go into the manifest."""
    from qsearch.compile.manifest import read_manifest, record_latency
    from qsearch.measure.devices import open_device
    from qsearch.target import load_target

    device = open_device(load_target(target or read_manifest(artefact)["target"]["name"]))
    result = device.bench(artefact, rounds, parse_size(size), threads)
    record_latency(artefact, result)
    console.print(f"{result.latency_ms:.2f} ms median at {size}, {result.conditions.threads} threads")
    finish(asdict(result))


@app.command()
def upscale(
    photo: Annotated[Path, typer.Argument(help="Any picture; any size, through tiles.")],
    artefact: Annotated[Path, typer.Option(help="Folder of an artefact.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Result; its suffix is the format.")],
    tile: Annotated[
        int | None, typer.Option(min=1, help="Longest side of a tile in input pixels; by memory by default.")
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Upscale a picture with a compiled artefact."""
    from qsearch.compile.run_artefact import upscale as run_upscale

    result = run_upscale(artefact, photo, out, threads, tile)
    finish({"out": str(result.path), "height": result.height, "width": result.width})


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the run folder by default.")] = None,
) -> None:
    """One self-contained HTML page: the front, bits per site, crops beside float and bicubic, the conditions."""
    from qsearch.commands.report import report_run

    finish({"report": str(report_run(run, out, console))})


@app.command()
def targets(name: Annotated[str | None, typer.Argument(help="Show one target, by name or file.")] = None) -> None:
    """List the known devices, or check and show one target file."""
    from qsearch.target import list_targets, load_target

    found = [load_target(name)] if name else list_targets()
    for target in found:
        console.print(
            f"[bold]{target.name}[/]  {target.cpu}, {target.isa}, {target.threads} threads  {target.description}"
        )
    finish({"targets": [{**target.model_dump(mode="json"), "isa": target.isa} for target in found]})


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of `320x180`; raises `QsearchError` for anything else."""
    width, _, height = text.partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise QsearchError(f"size {text!r} is not width×height in pixels, such as 320x180")
    return int(height), int(width)


def finish(result: dict[str, Any]) -> None:
    """Print the result as the last line of standard output."""
    print(json.dumps(result, default=str))


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit status 2."""
    try:
        app()
    except QsearchError as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        sys.exit(2)
