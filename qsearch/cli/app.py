"""The application that the commands join, their shared options, and how results are printed."""

import json
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
