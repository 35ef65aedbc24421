"""`qsearch patches`: a network at several allocations, chosen patch by patch, made, scored and stored."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from qsearch import cost
from qsearch.commands.progress import bar
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.evaluation import evaluate
from qsearch.files import require_free
from qsearch.images import Pair, read_image, save_image
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.patches import (
    Clustering,
    EdgeRule,
    Layout,
    Level,
    OwnRanges,
    PatchResult,
    draw_bits,
    levels_of,
    setting,
)
from qsearch.patches.split import Merge
from qsearch.patches.stored import StoredPatches
from qsearch.run import calibration_images, pairs_of

POLICIES = ("edges", "relative", "clusters")
Image = NDArray[np.uint8]


def make_patches(
    model: str,
    out: Path,
    levels: str,
    layout: Layout,
    policy: str,
    share: str | None,
    classes: int,
    own_ranges: bool,
    calibration: str,
    images: str,
    limit: int | None,
    console: Console,
) -> dict[str, Any]:
    """Calibrate `model`, train or calibrate what decides, score everything on `images` and store it in `out`.

    A failure leaves nothing behind.
    """
    require_free(out)
    if policy not in POLICIES:
        raise QsearchError(f"--policy must be {', '.join(POLICIES[:-1])} or {POLICIES[-1]}, not {policy!r}")
    shares = shares_of(share, policy, levels.count("-") + 1)
    loaded = load(model)
    pairs = pairs_of(images, loaded.upscale, limit)
    lr_images = calibration_images(calibration, loaded.upscale, limit)
    with bar(console, "calibrating") as progress:
        network = CalibratedNetwork.make(loaded, lr_images, progress=progress)
    chosen = levels_of(network, levels)
    console.print(f"deciding by {policy} on {len(lr_images)} low-resolution images")
    decides = _policy(policy, network, lr_images, layout, shares, classes)
    ranges = OwnRanges(network, lr_images, layout) if own_ranges else None
    if ranges is not None:
        chosen = [replace(level, calibrated=ranges.of(index, decides)) for index, level in enumerate(chosen)]
    stored = StoredPatches.of(network, chosen, layout, decides)
    score = scores(stored, network, chosen, pairs, ranges, console)
    replace(stored, score=score).save(out)
    return {"out": str(out), "model": model, **score}


def upscale_with_bits(
    photo: Path, patches: Path, out: Path, show_bits: Path | None, threads: int | None, console: Console
) -> dict[str, Any]:
    """Upscale a picture with a stored configuration of patches, and draw what was decided into `show_bits`."""
    image = read_image(photo)
    result = StoredPatches.load(patches).executor(threads).run(image)
    save_image(out, result.image)
    if show_bits is not None:
        save_image(show_bits, draw_bits(result))
    height, width = result.image.shape[:2]
    counts = _counts(result)
    console.print(", ".join(f"{count} patches at {name}" for name, count in counts.items()))
    return {"out": str(out), "height": height, "width": width, "patches": counts, "bitops": result.bitops}


def shares_of(text: str | None, policy: str, levels: int) -> list[float]:
    """Shares of the levels but the last by edges (equal by default), of references by clusters (one each: none)."""
    try:
        found = [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise QsearchError(f"--share {text!r} is no list of numbers such as 0.5 or 0.3,0.3") from None
    if policy == "clusters":
        if len(found) > 1:
            raise QsearchError("--share is one number where clusters decide: the share of references in each")
        return found
    if found and len(found) != levels - 1:
        raise QsearchError(f"--share needs a number for each of {levels} levels but the last, not {len(found)}")
    return found or [1 / levels] * (levels - 1)


def _policy(
    kind: str, network: CalibratedNetwork, images: Sequence[Image], layout: Layout, shares: list[float], classes: int
) -> EdgeRule | Clustering:
    if kind != "clusters":
        return EdgeRule.calibrate(images, layout, shares, kind == "relative") if shares else EdgeRule(())
    return clusters_of(network, images, layout, shares, classes)


def clusters_of(
    network: CalibratedNetwork, images: Sequence[Image], layout: Layout, shares: list[float], classes: int
) -> Clustering:
    """Trained clusters, with a share of references in each if there is one in `shares`."""
    trained = Clustering.train(network, images, layout, classes)
    return replace(trained, share=shares[0] if shares else None)


def scores(
    stored: StoredPatches,
    network: CalibratedNetwork,
    levels: Sequence[Level],
    pairs: Sequence[Pair],
    ranges: OwnRanges | None,
    console: Console,
) -> dict[str, Any]:
    """PSNR and BitOPs (means over the images) of the patches, and of every level for whole images.

    Where levels have own `ranges`, whole images may have those of all patches: the better ones count, and are named.
    """
    results: list[PatchResult] = []
    executor = stored.executor()

    def run(image: Image) -> Image:
        results.append(executor.run(image))
        return results[-1].image

    score = evaluate(run, pairs, stored.upscale)
    counts = [_counts(result) for result in results]
    total = sum(len(result.patches) for result in results)
    shares = {level.name: sum(count.get(level.name, 0) for count in counts) / total for level in levels}
    bitops = float(np.mean([result.bitops for result in results]))
    own = ranges.of_all() if ranges is not None else None
    static = {level.name: _static(network, level, pairs, own) for level in levels}
    console.print(f"patches: {score.psnr_y_db:.3f} dB, {bitops / 1e9:.4g} GBitOPs ({score.protocol})")
    for name, entry in static.items():
        figures = f"{entry['psnr_y_db']:.3f} dB, {entry['bitops'] / 1e9:.4g} GBitOPs"
        console.print(f"whole images at {name}, {entry['ranges']} ranges: {figures}")
    overwork = float(np.mean([result.overwork for result in results]))
    costs = {"bitops": bitops, "overwork": overwork, "shares": shares, "whole_images": static}
    return {"psnr": asdict(score), **costs}


def _static(
    network: CalibratedNetwork, level: Level, pairs: Sequence[Pair], own: CalibratedNetwork | None
) -> dict[str, Any]:
    """Whole images at a level: with the ranges of calibration or, where they are better, those of `own`."""
    networks = {"common": network} if own is None or level.finetuned is not None else {"common": network, "own": own}
    found = {}
    for ranges, calibrated in networks.items():
        program = replace(level, calibrated=calibrated).program(network)
        found[ranges] = evaluate(HostNetwork(program).run, pairs, network.model.upscale).psnr_y_db
    best = max(found, key=lambda ranges: found[ranges])
    bitops = [cost.bitops(network.layers(pair.lr.shape[:2]), level.allocation) for pair in pairs]
    return {"psnr_y_db": found[best], "bitops": float(np.mean(bitops)), "ranges": best}


def _counts(result: PatchResult) -> dict[str, int]:
    """Patches of every level that has any, the highest first."""
    found: dict[str, int] = {}
    for report in sorted(result.patches, key=lambda report: report.level):
        found[report.bits] = found.get(report.bits, 0) + 1
    return found


def layout_of(patch: int, overlap: str, merge: str | None) -> Layout:
    """The layout of the options; raises `QsearchError` for impossible ones."""
    kinds: dict[str, Merge] = {"crop": "crop", "average": "average"}
    pixels = overlap_of(overlap)
    if merge is not None and merge not in kinds:
        raise QsearchError(f"--merge must be crop or average, not {merge!r}")
    if merge is not None and pixels is None:
        raise QsearchError("--merge goes with an --overlap in pixels: seamless patches leave nothing to merge")
    return setting.layout_of(patch, pixels, kinds[merge or "crop"])


def overlap_of(text: str) -> int | None:
    """The overlap in pixels, None for `none`; raises `QsearchError` for other texts."""
    if text == "none":
        return None
    if not text.isdecimal():
        raise QsearchError(f"--overlap is none or a number of pixels, not {text!r}")
    return int(text)
