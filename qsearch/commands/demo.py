"""`qsearch demo`: the main job, end to end, on the bundled model and photographs."""

import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch import samples
from qsearch.commands.compile import compile_source
from qsearch.commands.report import report_run
from qsearch.commands.search import search_run
from qsearch.commands.select import select_point
from qsearch.compile.manifest import record_latency
from qsearch.compile.run_artefact import upscale, verify
from qsearch.errors import QsearchError
from qsearch.images import save_image
from qsearch.measure.devices import open_device
from qsearch.run import Run, RunConfig
from qsearch.target import load_target

MODEL = "abpn_x3"
OBJECTIVES = "psnr_y_db,latency_ms,bitops,weight_bytes"
SIZE = (360, 640)
MAX_DROP_DB = 0.25


def run_demo(out: Path, budget: str, console: Console) -> dict[str, Any]:
    """Search, select, compile, verify, bench, upscale and report into `out`; the same call continues and redoes."""
    config = RunConfig(MODEL, samples.NAME, samples.NAME, OBJECTIVES, size=SIZE)
    run = Run.create(out, config)
    console.rule("search")
    found = search_run(run, budget, console)
    console.rule("select")
    chosen = select_point([out], {"max_drop_db": MAX_DROP_DB}, console)
    console.rule("compile, verify, time")
    artefact = out / "artefact"
    shutil.rmtree(artefact, ignore_errors=True)
    compile_source(out, artefact, None, None, None, console)
    checked = verify(artefact)
    if not checked.ok:
        raise QsearchError(f"{artefact} failed: {'; '.join(checked.problems)}")
    with open_device(load_target(config.target)) as device:
        result = device.bench(artefact, size=SIZE, seconds=20.0)
    record_latency(artefact, result)
    console.print(f"640x360 → 1920x1080 in {result.latency_ms:.1f} ms on {result.conditions.threads} threads")
    console.rule("upscale, report")
    photo, big = out / "photo.png", out / "photo_x3.png"
    save_image(photo, samples.photograph("chelsea.png"))
    upscale(artefact, photo, big)
    page = report_run(out, None, console, artefact)
    console.print(f"winner {artefact}\nyour own picture: qsearch upscale photo.png --artefact {artefact} -o big.png")
    return {
        "trials": found["trials"],
        "winner": str(artefact),
        "psnr_y_db": chosen["psnr_y_db"],
        "latency_ms": result.latency_ms,
        "upscaled": str(big),
        "report": str(page),
    }
