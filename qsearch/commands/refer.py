"""`qsearch patches --refer`: queries at few bits with RefER, trained on originals, scored and stored."""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch.commands.patches import clusters_of, scores, shares_of
from qsearch.commands.progress import bar
from qsearch.errors import QsearchError
from qsearch.files import require_free
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.patches import (
    Layout,
    ReferencedProgram,
    ReferencedTwin,
    ReferSettings,
    StoredPatches,
    levels_of,
    train_referenced,
)
from qsearch.patches.execute import check_apart
from qsearch.run import calibration_images, pairs_of


@dataclass(frozen=True)
class Refer:
    """What RefER is trained with."""

    every: int
    """Residual blocks from one RefER to the next."""
    folders: list[str]
    """Originals."""
    iterations: int

    def settings(self, layout: Layout) -> ReferSettings:
        """Regions of the images in which patches may borrow from each other."""
        step = max(self.iterations // 4, 1)
        return ReferSettings(
            iterations=self.iterations, patch=2 * layout.patch, validate_every=step, checkpoint_every=min(25, step)
        )


def make_referenced(
    model: str,
    out: Path,
    levels: str,
    layout: Layout,
    share: str | None,
    classes: int,
    refer: Refer,
    calibration: str,
    images: str,
    limit: int | None,
    console: Console,
) -> dict[str, Any]:
    """As `make_patches` with clusters, the queries with RefER, whose training is long.

    The training is in a folder beside `out`, where the same command continues a killed one; a success removes it.
    """
    check_apart(layout)
    require_free(out)
    if levels.count("-") != 1:
        raise QsearchError(f"RefER needs two levels such as 8-4, for references and queries, not {levels!r}")
    shares = shares_of(share, "clusters", 2)
    settings, loaded = refer.settings(layout), load(model)
    pairs = pairs_of(images, loaded.upscale, limit)
    lr_images = calibration_images(calibration, loaded.upscale, limit)
    with bar(console, "calibrating") as progress:
        network = CalibratedNetwork.make(loaded, lr_images, progress=progress)
    high, low = levels_of(network, levels)
    twin = ReferencedTwin(network, high.allocation, low.allocation, refer.every)
    if not twin.positions:
        raise QsearchError(f"{loaded.name} has fewer than {refer.every} blocks before its upsampling: lower --refer")
    console.print(f"deciding by clusters on {len(lr_images)} low-resolution images")
    policy = clusters_of(network, lr_images, layout, shares, classes)
    training = out.parent / f"{out.name}.training"
    console.print(f"training RefER after {', '.join(twin.positions)} in {training}; the same command continues it")
    train_referenced(network, twin, layout, policy, refer.folders, training, settings, console=console)
    program = ReferencedProgram.of(network, twin, (high.name, low.name))
    stored = StoredPatches.of_referenced(network, program, layout, policy)
    score = {**scores(stored, network, program.levels, pairs, None, console), "training": asdict(settings)}
    replace(stored, score=score).save(out)
    shutil.rmtree(training)
    return {"out": str(out), "model": model, "refer": twin.positions, **score}
