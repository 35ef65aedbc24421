"""`qsearch compile`: from a point of a search, or a quantized network, to an artefact."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch.allocation import Allocation
from qsearch.commands.models import chosen_run
from qsearch.commands.quantize import ALLOCATION, SUMMARY
from qsearch.commands.search import selected_point
from qsearch.compile.artefact import build_artefact
from qsearch.compile.host import HostNetwork
from qsearch.compile.manifest import PATCHES
from qsearch.errors import QsearchError
from qsearch.evaluation import evaluate
from qsearch.files import read_json, require_free
from qsearch.integer.storage import load_program
from qsearch.measure.modelled import choice_for
from qsearch.models import bundled_programs
from qsearch.run import CONFIG, Run
from qsearch.target import load_target


def compile_source(
    source: Path, out: Path, point: int | None, target: str | None, name: str | None, console: Console
) -> dict[str, Any]:
    """Compile the selected (or the named) point of a run, or a quantized network, into the new folder `out`.

    A bundled integer network is named; everything else is a folder.
    """
    require_free(out)
    source = integer_folder(source)
    if (source / PATCHES).is_file():
        return _compile_patches(source, out, target or "host", name, console)
    source = chosen_run(source)
    if (source / SUMMARY).is_file():
        return _compile_quantized(source, out, target or "host", name, console)
    if (source / CONFIG).is_file():
        return _compile_point(Run.open(source), out, point, target, name, console)
    names = ", ".join(bundled_programs())
    raise QsearchError(
        f"{source} is neither a run of `qsearch search` nor a folder that `qsearch quantize` or `qsearch patches` wrote"
        f", nor a bundled integer network: {names}"
    )


def integer_folder(source: Path) -> Path:
    """The folder of the bundled integer network of that name, or `source` itself."""
    return source if source.exists() else bundled_programs().get(str(source), source)


def _compile_quantized(source: Path, out: Path, target: str, name: str | None, console: Console) -> dict[str, Any]:
    summary = read_json(source / SUMMARY)
    device = load_target(target)
    build_artefact(
        load_program(source),
        out,
        device,
        name=name or symbol_prefix(summary["model"]),
        allocation=Allocation.load(source / ALLOCATION),
        model=Path(summary["model"]).name,
        psnr=summary["score"],
        choose=choice_for(device),
    )
    return _done(out, summary["score"]["psnr_y_db"], console)


def _compile_patches(source: Path, out: Path, target: str, name: str | None, console: Console) -> dict[str, Any]:
    from qsearch.patches.artefact import build_patch_artefact
    from qsearch.patches.stored import StoredPatches

    patches, device = StoredPatches.load(source), load_target(target)
    prefix = name or symbol_prefix(patches.model)
    build_patch_artefact(patches, out, device, name=prefix, choose=choice_for(device))
    return _done(out, patches.score["psnr"]["psnr_y_db"], console)


def _compile_point(
    run: Run, out: Path, number: int | None, target: str | None, name: str | None, console: Console
) -> dict[str, Any]:
    point = selected_point(run, number)
    allocation, network = point.allocation, run.network()
    program = network.program(allocation, run.finetuned(point))
    score = evaluate(HostNetwork(program, run.config.threads).run, run.pairs, run.model.upscale)
    device = load_target(target or run.config.target)
    build_artefact(
        program,
        out,
        device,
        name=name or symbol_prefix(run.config.model),
        allocation=allocation,
        model=run.model.name,
        psnr=asdict(score),
        choose=choice_for(device),
    )
    return _done(out, score.psnr_y_db, console)


def symbol_prefix(model: str) -> str:
    """A C identifier from a model's name or path."""
    word = re.sub(r"\W+", "_", Path(model).stem.partition(":")[0]).strip("_").lower()
    return word if word[:1].isalpha() else f"net_{word}"


def _done(out: Path, psnr_y_db: float, console: Console) -> dict[str, Any]:
    console.print(f"artefact {out}: {psnr_y_db:.3f} dB; try `qsearch upscale photo.png --artefact {out} -o big.png`")
    return {"artefact": str(out), "psnr_y_db": psnr_y_db}
