"""RefER and its controls: low widths trained alike with clustered references, with random ones, and with none."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from subjects import SET, UPSCALE, Subject

from qsearch import cost
from qsearch.allocation import Allocation, uniform
from qsearch.compile.host import HostNetwork
from qsearch.ensemble import Upscaler
from qsearch.images import Pair
from qsearch.metrics import Protocol, psnr
from qsearch.models.checkpoints import read_state_dict
from qsearch.patches import (
    Clustering,
    Layout,
    PatchNetwork,
    RandomReferences,
    ReferencedNetwork,
    ReferencedProgram,
    ReferencedTwin,
    ReferSettings,
    train_referenced,
)
from qsearch.patches.execute import Level
from qsearch.patches.refer_training import REFERENCED

PATCHES = Layout(32, 4)
"""Small patches, so that the region of a step has references and queries."""
REGION = 80
"""As large as the training images allow."""
EVERY = 4
"""Blocks from one RefER to the next."""
NEVER = 1000
"""RefER after so many blocks: the control without."""
WIDTHS = (3, 4)
SHARES = (None, 0.25, 0.5)


@dataclass(frozen=True)
class Control:
    """What queries borrow from."""

    name: str
    every: int | None
    random: bool = False


CONTROLS = (Control("none", NEVER), Control("random", None, True), Control("clustered", None))


def trained(subject: Subject, iterations: int, console: Console) -> dict[str, Any]:
    """All trainings of one network, and what their integer networks give on Set14."""
    pairs = subject.pairs(SET)
    found: dict[str, Any] = {"iterations": iterations, "set": SET, "static": _static(subject, pairs)}
    for width in WIDTHS:
        for control in CONTROLS:
            twin = twin_of(subject, width, control, iterations, console)
            rows = list(_measured(subject, twin, control, pairs))
            found[f"{width}, {control.name}"] = rows
            print(subject.key, width, control.name, [round(row["psnr_y_db"], 3) for row in rows], flush=True)
            if control.every == NEVER:
                host = HostNetwork(subject.network.program(twin.low.allocation, twin.low.finetuned()))
                found[f"{width}, whole images"] = _score(subject, host.run, twin.low.allocation, pairs)
    return found


def twin_of(subject: Subject, width: int, control: Control, iterations: int, console: Console) -> ReferencedTwin:
    """The two widths 8 and `width`, trained once."""
    network = subject.network
    every = control.every or EVERY
    twin = ReferencedTwin(network, uniform(network.sites, 8, 8), uniform(network.sites, width, width), every)
    output = subject.folder / f"refer-{width}-{control.name}-{iterations}"
    step = max(iterations // 2, 1)
    settings = ReferSettings(iterations=iterations, patch=REGION, validate_every=step, checkpoint_every=25)
    if (output / "done").is_file():
        twin.load_state_dict(read_state_dict(output / REFERENCED))
        return twin.eval()
    folders = [subject.data / "train" / name for name in ("bsd200", "t91")]
    train_referenced(network, twin, PATCHES, _policy(subject, control), folders, output, settings,
                     console=console)  # fmt: skip
    (output / "done").touch()
    return twin


def _policy(subject: Subject, control: Control, share: float | None = None) -> Clustering | RandomReferences:
    clustering = replace(subject.clustering, share=share)
    return RandomReferences(clustering) if control.random else clustering


def _measured(subject: Subject, twin: ReferencedTwin, control: Control, pairs: list[Pair]) -> Iterator[dict[str, Any]]:
    """One row for each share of references, from the integer network on the compiled kernels."""
    program = ReferencedProgram.of(subject.network, twin) if twin.positions else None
    for share in SHARES:
        policy = _policy(subject, control, share)
        if program:
            run: Any = ReferencedNetwork(subject.network, program, PATCHES, policy).run
        else:
            levels = [Level(name, part.allocation, part.finetuned()) for name, part in twin.parts().items()]
            run = PatchNetwork(subject.network, levels, PATCHES, policy).run
        results = [run(pair.lr) for pair in pairs]
        quality = [psnr(r.image, pair.hr, Protocol(crop=UPSCALE)) for r, pair in zip(results, pairs, strict=True)]
        levels_used = [report.level for result in results for report in result.patches]
        yield {"share": share, "psnr_y_db": float(np.mean(quality)),
               "bitops": float(np.mean([result.bitops for result in results])),
               "references": levels_used.count(0) / len(levels_used)}  # fmt: skip


def _static(subject: Subject, pairs: list[Pair]) -> dict[str, dict[str, float]]:
    """Whole images at uniform widths without training."""
    found, host = {}, None
    for bits in (8, 6, 5, 4, 3):
        allocation = uniform(subject.network.sites, bits, bits)
        host = host or HostNetwork(subject.network.program(allocation))
        host.set_program(subject.network.program(allocation))
        found[str(bits)] = _score(subject, host.run, allocation, pairs)
    return found


def _score(subject: Subject, run: Upscaler, allocation: Allocation, pairs: list[Pair]) -> dict[str, float]:
    quality = [psnr(run(pair.lr), pair.hr, Protocol(crop=UPSCALE)) for pair in pairs]
    bitops = [cost.bitops(subject.network.layers(pair.lr.shape[:2]), allocation) for pair in pairs]
    return {"psnr_y_db": float(np.mean(quality)), "bitops": float(np.mean(bitops))}
