"""`qsearch verify` and `qsearch bench`: an artefact on this machine and on the device of a target."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch.compile.manifest import read_manifest, record_latency
from qsearch.compile.run_artefact import verify
from qsearch.errors import QsearchError
from qsearch.images import read_image
from qsearch.measure.devices import open_device
from qsearch.target import load_target


def verify_artefact(artefact: Path, target: str | None, console: Console) -> dict[str, Any]:
    """Check an artefact here and, where a target is named, on its device; raises `QsearchError` for what is wrong."""
    result = verify(artefact)
    if not result.ok:
        raise QsearchError(f"{artefact} failed: {'; '.join(result.problems)}")
    if target is not None:
        with open_device(load_target(target)) as device:
            there = device.verify(artefact)
        if not there.ok:
            raise QsearchError(f"{artefact} failed: {'; '.join(there.problems)}")
        console.print(f"{artefact}: golden bytes agree on device {device.target.name}")
    ran = f"golden bytes ({result.runner})" if result.runner else "golden bytes (executable not run)"
    console.print(f"{artefact}: {result.files} files, {ran} and integer reference agree")
    if result.not_run:
        console.print(f"[yellow]the executable was not run:[/] {result.not_run}")
    return {
        "artefact": str(artefact),
        "files": result.files,
        "ok": True,
        "runner": result.runner,
        "not_run": result.not_run,
    }


def bench_artefact(
    artefact: Path,
    rounds: int,
    size: tuple[int, int],
    threads: int | None,
    target: str | None,
    reference: Path | None,
    image: Path | None,
    ci_limit: float,
    seconds: float,
    console: Console,
) -> dict[str, Any]:
    """Time an artefact on the device of `target` (its own by default) and write the latency to its manifest.

    The picture `image` is upscaled, or noise of `size` where there is none.
    """
    picture = read_image(image) if image else None
    with open_device(load_target(target or read_manifest(artefact)["target"]["name"])) as device:
        result = device.bench(
            artefact, rounds, size, threads, reference=reference, image=picture, ci_limit=ci_limit, seconds=seconds
        )
    if image is not None and picture is not None:
        size = picture.shape[:2]
        result = replace(result, conditions=replace(result.conditions, picture=image.name))
    record_latency(artefact, result)
    within = "within" if result.converged else "not within"
    console.print(
        f"{result.latency_ms:.2f} ms median ({result.low_ms:.2f} to {result.high_ms:.2f}) at {size[1]}x{size[0]}, "
        f"{result.conditions.threads} threads, {result.conditions.rounds} rounds; {within} {100 * ci_limit:g}%"
    )
    if result.ratio is not None:
        ratio = result.ratio
        console.print(f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f}) of the time of {reference}")
    return asdict(result)
