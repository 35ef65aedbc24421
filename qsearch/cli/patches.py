"""Per-patch bits."""

from pathlib import Path
from typing import Annotated

import typer

from qsearch.cli.app import CalibrationOption, ImagesOption, OutOption, ThreadsOption, app, console, finish
from qsearch.errors import QsearchError

_MODEL = typer.Argument(help="A bundled name, a checkpoint (.safetensors, .pt, .pth) or file.py:factory.")


@app.command()
def patches(
    out: OutOption,
    model: Annotated[str | None, _MODEL] = None,
    levels: Annotated[
        str | None,
        typer.Option(help="Uniform bits of the levels, from high to low [default: 6-5, with --refer 8-4]."),
    ] = None,
    patch: Annotated[int, typer.Option(min=1, help="Longest side of a patch in LR pixels.")] = 48,
    overlap: Annotated[
        str | None,
        typer.Option(
            help="none: patches read their neighbours, layer by layer, without seams (default). A number: each runs by "
            "itself and shares so many LR pixels with its neighbours (default with --refer or --merge: 4)."
        ),
    ] = None,
    merge: Annotated[
        str | None, typer.Option(help="Of patches with an overlap in pixels: crop (default) or average.")
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="What decides: relative (the strength of edges in an image of such strength), edges (their strength), "
            "or clusters (references and queries)."
        ),
    ] = "relative",
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
    source: Annotated[
        Path | None,
        typer.Option("--from", help="Instead of MODEL a folder of `search-patches`, whose setting is taken."),
    ] = None,
    point: Annotated[int | None, typer.Option(min=0, help="With --from: the number of its trial.")] = None,
) -> None:
    """Give the patches of an image different bits: make, score and store such a configuration for `compile`."""
    from qsearch.commands.patches import layout_of, make_patches
    from qsearch.commands.search_patches import store_point

    if (model is None) == (source is None):
        raise QsearchError("give either a MODEL or --from with a folder of `qsearch search-patches`")
    if (source is None) != (point is None):
        raise QsearchError("--from and --point go together: a folder of `qsearch search-patches` and its trial")
    if source is not None and (refer is not None or train):
        raise QsearchError("--refer and --train go with a MODEL: a setting of a search has its own levels")
    if source is not None and point is not None:
        finish(store_point(source, point, out, console))
        return
    levels = levels or ("6-5" if refer is None else "8-4")
    layout = layout_of(patch, overlap or ("none" if refer is None and merge is None else "4"), merge)
    if refer is not None or train:
        from qsearch.commands.refer import Refer, make_referenced

        if refer is None or not train:
            raise QsearchError("--refer and --train go together: where RefER is, and the originals to train it on")
        if policy != "clusters" or own_ranges:
            raise QsearchError("--refer goes with --policy clusters and without --own-ranges")
        finish(make_referenced(model or "", out, levels, layout, share, classes, Refer(refer, train, iterations),
                               calibration, images, limit, console))  # fmt: skip
        return
    finish(make_patches(model or "", out, levels, layout, policy, share, classes, own_ranges, calibration, images,
                        limit, console))  # fmt: skip


@app.command()
def search_patches(
    out: Annotated[Path, typer.Option(help="Folder of the search; the same command continues it.")],
    model: Annotated[str | None, _MODEL] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="Instead of MODEL a folder of `search`: patches get allocations of its front, of mixed bits."
        ),
    ] = None,
    levels: Annotated[str | None, typer.Option(help="Uniform bits to choose from [default: 8-7-6-5-4-3].")] = None,
    patch: Annotated[str, typer.Option(help="Longest sides of a patch in LR pixels, to choose from.")] = "24,32,48,64",
    overlap: Annotated[
        str | None,
        typer.Option(
            help="To choose from: LR pixels that neighbours share, or none for seamless patches, which have no latency_ms "
            "here [default: none, with latency_ms 0,4,8]."
        ),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="What gets the higher bits: patches of strong edges, of edges strong in their image (relative), smooth "
            "ones, references of clusters."
        ),
    ] = "relative,edges,smooth,clusters",
    classes: Annotated[str, typer.Option(help="Numbers of texture classes to choose from.")] = "8,16,32",
    ranges: Annotated[
        str, typer.Option(help="own: every level is calibrated on the patches that it gets; common: it is not.")
    ] = "own,common",
    objectives: Annotated[
        str, typer.Option(help="psnr_y_db and bitops, or latency_ms as measured here, handling of patches included.")
    ] = "psnr_y_db,bitops",
    budget: Annotated[str | None, typer.Option(help="Time, as in 90s, 10m, 2h.")] = None,
    trials: Annotated[int | None, typer.Option(help="Number of trials, whole images among them.")] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Folder of low-resolution images, or `samples` (default), or the run's.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Folder of originals, or `samples` (default); by default the run's.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first images of each folder [default: 32, or the run's].")
    ] = None,
    threads: ThreadsOption = None,
    seed: Annotated[int, typer.Option(help="Seed of calibration, classifiers and proposals.")] = 0,
) -> None:
    """Search sizes, overlap, policy, shares and allocations of patches, beside whole images at every allocation."""
    from qsearch.commands.search_patches import search_patches as search
    from qsearch.commands.search_patches import settings_of

    if (budget is None) == (trials is None):
        raise QsearchError("give either --budget (such as 10m) or --trials (such as 100)")
    if (model is None) == (run is None):
        raise QsearchError("give either a MODEL or --run with a folder of `qsearch search`")
    if run is not None and (levels is not None or calibration is not None):
        raise QsearchError("--levels and --calibration go with a MODEL: a run has its own")
    overlap = overlap or ("0,4,8" if "latency_ms" in objectives else "none")
    config, space = settings_of(model, run, levels or "8-7-6-5-4-3", patch, overlap, policy, classes, ranges,
                                objectives, calibration, images, limit, threads, seed)  # fmt: skip
    finish(search(out, config, space, run, budget or str(trials), console))
