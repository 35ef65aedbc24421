"""Per-patch bits."""

from typing import Annotated

import typer

from qsearch.cli.app import CalibrationOption, ImagesOption, ModelOption, OutOption, app, console, finish
from qsearch.errors import QsearchError


@app.command()
def patches(
    model: ModelOption,
    out: OutOption,
    levels: Annotated[str, typer.Option(help="Uniform bits of the levels, from high to low.")] = "8-4",
    patch: Annotated[int, typer.Option(min=1, help="Longest side of a patch in LR pixels.")] = 48,
    overlap: Annotated[int, typer.Option(min=0, help="LR pixels that neighbouring patches share.")] = 4,
    merge: Annotated[str, typer.Option(help="Of overlapping patches: crop or average.")] = "crop",
    policy: Annotated[
        str, typer.Option(help="What decides: edges (their strength), or clusters (references and queries).")
    ] = "edges",
    share: Annotated[
        str | None,
        typer.Option(
            help="Share of each level but the last, as 0.3 or 0.3,0.3 (equal by default); with clusters that of "
            "references in each (one reference by default)."
        ),
    ] = None,
    classes: Annotated[int, typer.Option(min=1, help="Texture classes that make clusters.")] = 16,
    own_ranges: Annotated[
        bool, typer.Option("--own-ranges", help="Calibrate every level on the patches that it gets.")
    ] = False,
    calibration: CalibrationOption = "samples",
    images: ImagesOption = "samples",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images of each folder.")] = 32,
    refer: Annotated[
        int | None,
        typer.Option(min=1, help="With clusters: queries borrow features (RefER) after every so many blocks."),
    ] = None,
    train: Annotated[
        list[str] | None, typer.Option(help="With --refer: folder of originals to train on; may be repeated.")
    ] = None,
    iterations: Annotated[int, typer.Option(min=1, help="With --refer: of its training.")] = 2000,
) -> None:
    """Give the patches of an image different bits: make, score and store such a configuration for `compile`."""
    from qsearch.commands.patches import layout_of, make_patches

    layout = layout_of(patch, overlap, merge)
    if refer is not None or train:
        from qsearch.commands.refer import Refer, make_referenced

        if refer is None or not train:
            raise QsearchError("--refer and --train go together: where RefER is, and the originals to train it on")
        if policy != "clusters" or own_ranges:
            raise QsearchError("--refer goes with --policy clusters and without --own-ranges")
        finish(make_referenced(model, out, levels, layout, share, classes, Refer(refer, train, iterations),
                               calibration, images, limit, console))  # fmt: skip
        return
    finish(make_patches(model, out, levels, layout, policy, share, classes, own_ranges, calibration, images, limit,
                        console))  # fmt: skip
