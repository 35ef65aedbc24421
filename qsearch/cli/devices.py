"""Devices: targets, operation tables, boards behind RPC."""

from pathlib import Path
from typing import Annotated

import typer

from qsearch.cli.app import SizeOption, app, console, finish, parse_share, parse_size


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


@app.command()
def profile(
    target: Annotated[str, typer.Option(help="Target name or file.")] = "host",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A model or configuration, a run folder (its front) or a quantized folder; several times for several. "
            "The usual operations without."
        ),
    ] = None,
    size: SizeOption = "320x180",
    bits: Annotated[str, typer.Option(help="Bits of a model.")] = "w8a8",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; the target's by default.")] = None,
    lint: Annotated[bool, typer.Option("--lint", help="Also say which operations cost more than they bring.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for table.json, operations.svg and report.html.")] = None,
    ci: Annotated[
        str, typer.Option(help="Repeat until every 95 % confidence interval is within this of its median.")
    ] = "2%",
    seconds: Annotated[float, typer.Option(help="Begin no further round after so long.")] = 60.0,
) -> None:
    """Time every operation on a device by shape, or model it where no device is; predict whole networks from the table.

    The table is kept for the target: what it has is not timed again.
    """
    from qsearch.commands.profile import profile_target
    from qsearch.measure.profiling import Timed

    timed = Timed(parse_share(ci), seconds)
    finish(profile_target(target, model or [], parse_size(size), bits, threads, lint, timed, out, console))


@app.command("lint")
def lint_command(
    model: Annotated[str, typer.Argument(help="A model, a configuration, a run folder or a quantized folder.")],
    target: Annotated[str, typer.Option(help="Target name or file.")] = "host",
    size: SizeOption = "320x180",
    bits: Annotated[str, typer.Option(help="Bits of a model.")] = "w8a8",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; the target's by default.")] = None,
    seconds: Annotated[float, typer.Option(help="Begin no further round after so long.")] = 60.0,
) -> None:
    """Say which operations of a network cost more on a device than they bring, and the milliseconds each would save."""
    from qsearch.commands.profile import lint_model
    from qsearch.measure.profiling import Timed

    finish(lint_model(model, target, parse_size(size), bits, threads, Timed(seconds=seconds), console))


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
