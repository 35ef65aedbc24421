"""Artefacts: compile, verify, time, use."""

from pathlib import Path
from typing import Annotated

import typer

from qsearch.cli.app import (
    CalibrationOption,
    OutOption,
    SizeOption,
    ThreadsOption,
    app,
    console,
    finish,
    parse_share,
    parse_size,
)
from qsearch.errors import QsearchError


@app.command("compile")
def compile_command(
    source: Annotated[
        Path,
        typer.Argument(help="A run folder (its selected point) or a folder that `quantize` or `patches` wrote."),
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
    image: Annotated[
        Path | None,
        typer.Option(help="Upscale this picture instead of noise of --size: with patches time depends on it."),
    ] = None,
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

        if image is not None:
            raise QsearchError("--image goes without --against")

        finish(bench_against(str(artefact), against, parse_size(size), rounds or 15, threads, model, bits,
                             calibration, litert_model, report, console))  # fmt: skip
        return
    from qsearch.commands.devices import bench_artefact

    finish(bench_artefact(artefact, rounds or 128, parse_size(size), threads, target, reference, image,
                          parse_share(ci), seconds, console))  # fmt: skip


@app.command()
def upscale(
    photo: Annotated[Path, typer.Argument(help="Any picture; any size, through tiles.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Result; its suffix is the format.")],
    artefact: Annotated[Path | None, typer.Option(help="Folder of an artefact.")] = None,
    patches: Annotated[
        Path | None, typer.Option(help="Instead: a folder that `patches` wrote; it runs in this process.")
    ] = None,
    show_bits: Annotated[
        Path | None,
        typer.Option(help="With --patches: also a picture with bits, clusters and references drawn over the result."),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(min=1, help="Longest side of a tile in input pixels; by memory by default.")
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Upscale a picture with a compiled artefact, or with a configuration of patches that shows its decisions."""
    if (artefact is None) == (patches is None):
        raise QsearchError("give either --artefact or --patches")
    if patches is not None:
        from qsearch.commands.patches import upscale_with_bits

        if tile is not None:
            raise QsearchError("--tile goes with --artefact: patches have their own size")
        finish(upscale_with_bits(photo, patches, out, show_bits, threads, console))
        return
    if show_bits is not None:
        raise QsearchError("--show-bits goes with --patches; the artefact of patches is such a folder, too")
    from qsearch.compile.run_artefact import upscale as run_upscale

    assert artefact is not None
    result = run_upscale(artefact, photo, out, threads, tile)
    finish({"out": str(result.path), "height": result.height, "width": result.width})
