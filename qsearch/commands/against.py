"""`qsearch bench --against`: a model or an artefact beside the same network in other runtimes."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from torch.fx import GraphModule

from qsearch.commands.quantize import parse_bits
from qsearch.compile.manifest import MANIFEST, read_manifest
from qsearch.compile.threads import available
from qsearch.errors import QsearchError
from qsearch.integer.storage import load_program
from qsearch.measure.against import OURS, Against, measure_against
from qsearch.measure.peers import Subject, known_peer
from qsearch.models import LoadedModel, build, families, load
from qsearch.network import CalibratedNetwork
from qsearch.report.peers_page import cells_of, write_peers_page
from qsearch.run import calibration_images

CALIBRATION_LIMIT = 16


def bench_against(
    source: str,
    peers: str,
    size: tuple[int, int],
    rounds: int,
    threads: int | None,
    model: str | None,
    bits: str,
    calibration: str,
    litert_model: Path | None,
    report: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Measure `source` (a model, a configuration, or an artefact's folder) and write the page, if one is wanted."""
    names = [name.strip() for name in peers.split(",") if name.strip()]
    for name in names:
        known_peer(name)
    artefact = Path(source) if (Path(source) / MANIFEST).is_file() else None
    floating = _float_model(source, artefact, model)
    images = calibration_images(calibration, floating.upscale, CALIBRATION_LIMIT)
    program = load_program(artefact) if artefact else _quantized(floating, images, bits)
    subject = Subject(floating, images, size, litert_model)
    run = measure_against(program, subject, names, threads or available(), rounds)
    what = f"{artefact.name} ({floating.name})" if artefact else f"{floating.name} {bits}"
    _print(run, console)
    if report is not None:
        write_peers_page(report, f"{what} against other runtimes", [(what, run)], conditions_of([run], calibration))
        console.print(f"report {report}")
    return {
        "source": source,
        "size": size,
        "rows": [{**asdict(row), "timing": {**asdict(row.timing), "samples_ms": None}} for row in run.rows],
        "refused": run.refused,
        "conditions": asdict(run.conditions),
        **({"report": str(report)} if report else {}),
    }


def _float_model(source: str, artefact: Path | None, model: str | None) -> LoadedModel:
    """The float network that the peers quantize."""
    if artefact is None:
        if model is not None:
            raise QsearchError(f"--model names the float network of an artefact, and {source} is none")
        known = any(family.parse(source) for family in families().values()) and not Path(source).exists()
        return build(source) if known else load(source)
    name = model or str(read_manifest(artefact)["provenance"]["model"])
    try:
        return load(name)
    except QsearchError as error:
        if model is not None:
            raise
        raise QsearchError(f"the peers need the float network of {artefact}: give it by --model") from error


def _quantized(model: LoadedModel, images: Sequence[Any], bits: str) -> GraphModule:
    network = CalibratedNetwork.make(model, images)
    return network.program(parse_bits(bits, network.sites))


def _print(run: Against, console: Console) -> None:
    for line in run.refused.values():
        console.print(f"[yellow]left out:[/] {line}")
    for row in run.rows:
        title, _, median, interval, ratio, to_float, to_ours = cells_of(row)
        agreement = f"SQNR {to_float} dB to float" + ("" if row.name == OURS else f", {to_ours} dB to ours")
        ours = f"  ours / this {ratio}" if ratio else ""
        console.print(f"{title:20s} {median:>9s} ms ({interval}){ours}  {agreement}")


def conditions_of(runs: Sequence[Against], calibration: str) -> dict[str, str]:
    """What a reader must know to repeat the measurement."""
    first = runs[0].conditions
    height, width = first.size or (0, 0)
    return {
        "processor": first.cpu,
        "date": first.date,
        "image": f"{width}×{height}, uint8 in and out",
        "rounds": f"{first.rounds}, interleaved, every other one in reverse order",
        "load average before": ", ".join(f"{run.conditions.load_average:.2f}" for run in runs),
        "calibration images": calibration,
        "agreement": "SQNR = 10·log10(Σ reference² / Σ difference²) over the uint8 pictures",
    }
