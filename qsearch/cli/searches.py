"""Searches: run, select, report, and the demonstration of all."""

from pathlib import Path
from typing import Annotated

import typer

from qsearch.cli.app import CalibrationOption, ImagesOption, SizeOption, ThreadsOption, app, console, finish, parse_size
from qsearch.errors import QsearchError


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command continues it.")] = Path("runs/demo"),
    budget: Annotated[str, typer.Option(help="Time for the search, or a number of trials.")] = "3m",
) -> None:
    """The main job on the bundled model and photographs: search, select, compile, verify, upscale, report."""
    from qsearch.commands.demo import run_demo

    finish(run_demo(out, budget, console))


@app.command()
def search(
    out: Annotated[Path, typer.Option(help="Folder of the run; the same command continues it.")],
    model: Annotated[
        str | None,
        typer.Argument(help="A bundled name, a checkpoint (.safetensors, .pt, .pth) or file.py:factory."),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(help="Instead of MODEL several, as in abpn_x3,edsr_r8f32_x3: a study of each, one front."),
    ] = None,
    weights_folder: Annotated[
        Path | None, typer.Option(help="Folder of the trained weights of configurations such as edsr_r8f32_x3.")
    ] = None,
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
    quantizers: Annotated[
        str,
        typer.Option(
            help="Of activations: uniform, piecewise (coarser steps for outliers), or both. BitOPs count the bits of a piecewise site, latency follows its span."
        ),
    ] = "uniform",
    seed: Annotated[int, typer.Option(help="Seed of calibration crops and sampler.")] = 0,
) -> None:
    """Search the bits of every weight, input and skip operand; kill it at any time and continue by the same command."""
    from qsearch.commands.models import search_models
    from qsearch.commands.search import search_run
    from qsearch.models import with_weights
    from qsearch.run import Run, RunConfig
    from qsearch.target import load_target

    if (budget is None) == (trials is None):
        raise QsearchError("give either --budget (such as 10m) or --trials (such as 200)")
    if (model is None) == (models is None):
        raise QsearchError("give either a MODEL or --models with several")
    local = load_target(target).reach.kind == "local"
    devices = tuple(device or (() if local or "latency_ms" not in objectives else [target]))
    config = RunConfig(
        with_weights(model, weights_folder) if model else "",
        images,
        calibration,
        objectives,
        parse_size(size),
        target,
        threads,
        limit,
        seed=seed,
        quantizers=quantizers,
        devices=devices,
    )
    spent = budget or str(trials)
    if models is not None:
        names = [name.strip() for name in models.split(",") if name.strip()]
        finish(search_models(names, weights_folder, out, config, spent, console))
        return
    finish(search_run(Run.create(out, config), spent, console))


@app.command()
def select(
    runs: Annotated[list[Path], typer.Argument(help="One or several run folders, of one or several networks.")],
    max_latency_ms: Annotated[float | None, typer.Option(help="Best PSNR within this latency.")] = None,
    max_latency_modelled_ms: Annotated[
        float | None, typer.Option(help="Best PSNR within this latency, as modelled for a board that is not there.")
    ] = None,
    min_psnr_db: Annotated[float | None, typer.Option(help="Cheapest with at least this PSNR.")] = None,
    max_drop_db: Annotated[float | None, typer.Option(help="Cheapest within this drop from the float network.")] = None,
    max_weight_bytes: Annotated[float | None, typer.Option(help="Limit on the packed weights.")] = None,
    max_bitops: Annotated[float | None, typer.Option(help="Limit on BitOPs at the run's size.")] = None,
    max_peak_bytes: Annotated[float | None, typer.Option(help="Limit on live activations at the run's size.")] = None,
    resolution: Annotated[
        str | None, typer.Option(help="Size of the output that latencies are for: 720p, 1080p, 4k or width×height.")
    ] = None,
    artefact: Annotated[Path | None, typer.Option(help="Also compile the choice into this new folder.")] = None,
) -> None:
    """Choose network and allocation under limits; the choice is kept in the run folder for `compile` and `report`."""
    from qsearch.commands.select import select_point

    limits = {"max_latency_ms": max_latency_ms, "max_latency_modelled_ms": max_latency_modelled_ms,
              "min_psnr_db": min_psnr_db, "max_drop_db": max_drop_db,
              "max_weight_bytes": max_weight_bytes, "max_bitops": max_bitops, "max_peak_bytes": max_peak_bytes}  # fmt: skip
    given = {name: value for name, value in limits.items() if value is not None}
    finish(select_point(runs, given, console, resolution, artefact))


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the run folder by default.")] = None,
) -> None:
    """One self-contained HTML page: the front, bits per site, crops beside float and bicubic, the conditions."""
    from qsearch.commands.report import report_run

    finish({"report": str(report_run(run, out, console))})
