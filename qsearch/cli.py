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


@app.command("finetune")
def finetune_command(
    source: Annotated[str, typer.Argument(help="A run folder (its selected point), or a model as for `quantize`.")],
    out: OutOption,
    point: Annotated[int | None, typer.Option(help="Number of a point of the run instead of the selected one.")] = None,
    bits: Annotated[str, typer.Option(help="Of a model: uniform bits such as w4a4.")] = "w4a4",
    allocation: Annotated[
        Path | None, typer.Option(help="Of a model: allocation file instead of uniform bits.")
    ] = None,
    quantizer: Annotated[
        str, typer.Option(help="Of a model without allocation: uniform, piecewise, or better (of the two, by site).")
    ] = "better",
    calibration: CalibrationOption = "samples",
    images: ImagesOption = "samples",
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
    settings = settings_of(iterations, fixed_weights, seed)
    if is_run(source):
        polish = from_run(Path(source), point, limit, console)
    else:
        kind = None if quantizer == "better" else quantizer
        polish = from_model(source, bits, allocation, kind, calibration, images, limit, console)  # type: ignore[arg-type]
    finish(finetune_and_store(polish, out, settings, console))


@app.command()
def search(
    model: ModelOption,
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command continues it.")],
    images: ImagesOption = "samples",
    calibration: CalibrationOption = "samples",
    objectives: Annotated[
        str,
        typer.Option(
            help="psnr_y_db and costs out of latency_ms, latency_modelled_ms, bitops, weight_bytes, peak_bytes."
        ),
    ] = "psnr_y_db,bitops",
    budget: Annotated[str | None, typer.Option(help="Time, as in 90s, 10m, 2h.")] = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials.")] = None,
    size: SizeOption = "320x180",
    limit: Annotated[int | None, typer.Option(min=1, help="Measure on the first images only.")] = None,
    threads: ThreadsOption = None,
    target: Annotated[str, typer.Option(help="Target name or file.")] = "host",
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="Target name or file of a device that measures latency or, emulated, checks bytes; give it several times for several."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of calibration crops and sampler.")] = 0,
) -> None:
    """Search the bits of every weight, input and skip operand; kill it at any time and continue by the same command."""
    from qsearch.commands.search import search_run
    from qsearch.run import Run, RunConfig
    from qsearch.target import load_target

    if (budget is None) == (trials is None):
        raise QsearchError("give either --budget (such as 10m) or --trials (such as 200)")
    local = load_target(target).reach.kind == "local"
    devices = tuple(device or (() if local or "latency_ms" not in objectives else [target]))
    config = RunConfig(
        model, images, calibration, objectives, parse_size(size), target, threads, limit, seed=seed, devices=devices
    )
    run = Run.create(out, config)
    finish(search_run(run, budget or str(trials), console))


@app.command()
def select(
    runs: Annotated[list[Path], typer.Argument(help="One or several run folders.")],
    max_latency_ms: Annotated[float | None, typer.Option(help="Best PSNR within this latency.")] = None,
    max_latency_modelled_ms: Annotated[
        float | None, typer.Option(help="Best PSNR within this latency, as modelled for a board that is not there.")
    ] = None,
    min_psnr_db: Annotated[float | None, typer.Option(help="Cheapest with at least this PSNR.")] = None,
    max_drop_db: Annotated[float | None, typer.Option(help="Cheapest within this drop from the float network.")] = None,
    max_weight_bytes: Annotated[float | None, typer.Option(help="Limit on the packed weights.")] = None,
    max_bitops: Annotated[float | None, typer.Option(help="Limit on BitOPs at the run's size.")] = None,
    max_peak_bytes: Annotated[float | None, typer.Option(help="Limit on live activations at the run's size.")] = None,
) -> None:
    """Choose a point of the front under limits; the choice is kept in the run folder for `compile` and `report`."""
    from qsearch.commands.search import select_point

    limits = {"max_latency_ms": max_latency_ms, "max_latency_modelled_ms": max_latency_modelled_ms,
              "min_psnr_db": min_psnr_db, "max_drop_db": max_drop_db,
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
def verify(
    artefact: Annotated[Path, typer.Argument(help="Folder of an artefact.")],
    target: Annotated[
        str | None, typer.Option(help="Also run it on the device of this target (name or file), emulated or not.")
    ] = None,
) -> None:
    """Check every file's SHA-256 and that executable, golden images and integer reference agree byte for byte."""
    from qsearch.commands.devices import verify_artefact

    finish(verify_artefact(artefact, target, console))


@app.command()
def bench(
    artefact: Annotated[
        Path, typer.Argument(help="Folder of an artefact; with --against also a model or a configuration.")
    ],
    size: SizeOption = "320x180",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="At most so many rounds; 128, or 15 with --against.")
    ] = None,
    threads: ThreadsOption = None,
    target: Annotated[str | None, typer.Option(help="Target name or file; the artefact's by default.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Another artefact to take turns with; gives the ratio.")
    ] = None,
    ci: Annotated[
        str, typer.Option(help="Repeat until the 95 % confidence interval is within this of the median.")
    ] = "2%",
    seconds: Annotated[float, typer.Option(help="Begin no further round after so long.")] = 60.0,
    against: Annotated[
        str | None,
        typer.Option(help="Runtimes to compare with: onnxruntime, openvino, litert, ncnn, torch, onnxruntime-fp32."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --against: the float network of the artefact.")] = None,
    bits: Annotated[str, typer.Option(help="With --against: weight and activation bits of a model.")] = "w8a8",
    calibration: CalibrationOption = "samples",
    litert_model: Annotated[Path | None, typer.Option(help="With --against: the .tflite file LiteRT runs.")] = None,
    report: Annotated[Path | None, typer.Option(help="With --against: a page with table and plot.")] = None,
) -> None:
    """Time an artefact as its own process on a device; the latency and its conditions go into the manifest.

    With `--against` the network runs in this process beside other runtimes, in interleaved rounds.
    """
    if against is not None:
        from qsearch.commands.against import bench_against

        finish(bench_against(str(artefact), against, parse_size(size), rounds or 15, threads, model, bits,
                             calibration, litert_model, report, console))  # fmt: skip
        return
    from qsearch.commands.devices import bench_artefact

    finish(bench_artefact(artefact, rounds or 128, parse_size(size), threads, target, reference, parse_share(ci),
                          seconds, console))  # fmt: skip


@app.command("rpc-tracker")
def rpc_tracker(
    host: Annotated[str, typer.Option(help="Address to listen on. RPC has no authentication.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 9190,
) -> None:
    """Run TVM's RPC tracker, which knows the boards; needs the extra `rpc`."""
    from qsearch.commands.rpc import run_tracker

    run_tracker(host, port, console)


@app.command("rpc-server")
def rpc_server(
    key: Annotated[str, typer.Option(help="Name under which the board registers.")] = "board",
    target: Annotated[str, typer.Option(help="Target name or file: what the board is.")] = "host",
    tracker: Annotated[str, typer.Option(help="Address of the tracker.")] = "127.0.0.1:9190",
    host: Annotated[str, typer.Option(help="Address to listen on. RPC has no authentication.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Only build it into this folder: one static file to copy to the board.")
    ] = None,
) -> None:
    """Run the RPC server of a board here, emulated for another architecture, or build it for a board without Python."""
    from qsearch.commands.rpc import run_server, write_server

    if out is not None:
        finish(write_server(target, out))
    else:
        run_server(target, tracker, key, host, port, console)


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


def parse_share(text: str) -> float:
    """0.02 of `2%` or `0.02`; raises `QsearchError` for what is not between 0 and 1."""
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise QsearchError(f"{text!r} is not a share such as 2% or 0.02")
    return share


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
