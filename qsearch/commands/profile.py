"""`qsearch profile` and `qsearch lint`: what operations take on a target, and what of a network is not worth it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from torch.fx import GraphModule

from qsearch import samples
from qsearch.commands.models import MODELS, run_folders
from qsearch.commands.progress import bar
from qsearch.commands.quantize import SUMMARY, parse_bits
from qsearch.integer.storage import load_program
from qsearch.measure.lint import Finding, lint
from qsearch.measure.operations import OperationTable, OperationTime, Predicted, Size, table_path
from qsearch.measure.profiling import Layer, Timed, fill, layers_of, open_table
from qsearch.measure.vocabulary import vocabulary
from qsearch.models import build, load
from qsearch.models.registry import is_configuration
from qsearch.network import CalibratedNetwork
from qsearch.report.operations_page import save_operations, write_operations_page
from qsearch.run import CONFIG, Run
from qsearch.search import front, load_history
from qsearch.target import Target, load_target

_IMAGES = 8


def profile_target(
    target: str,
    models: Sequence[str],
    size: Size,
    bits: str,
    threads: int | None,
    linted: bool,
    timed: Timed,
    out: Path | None,
    console: Console,
) -> dict[str, Any]:
    """Time (or model) what the table of `target` lacks of `models`, or of the usual operations where none is named."""
    device = load_target(target)
    table = open_table(device, threads)
    shown: list[Layer] = []
    predictions, findings = {}, {}
    if not models:
        shown = vocabulary(device, size)
        added = _fill(table, shown, device, timed, console)
    else:
        added = 0
        for name, program in _programs(models, bits, console):
            plan, layers = layers_of(program, device, size)
            added += _fill(table, layers, device, timed, console)
            if linted:
                findings[name] = _lint(layers, table, device, timed, console)
            predictions[name] = table.predict(plan, size, device.limits.memory_bytes)
            shown += layers
            _say(name, predictions[name], table, size, console)
            _say_findings(findings.get(name, ()), table, console)
    times = [table.times[key] for key in dict.fromkeys(layer.operation.key for layer in shown)]
    _say_operations(times, table, console)
    path = table_path(device, table.threads)
    console.print(f"{added} operations added, {len(table.times)} in {path}")
    if out is not None:
        rows = [_prediction_row(name, found, table, size) for name, found in predictions.items()]
        out.mkdir(parents=True, exist_ok=True)
        save_operations(out / "operations.svg", times, table)
        write_operations_page(out / "report.html", table, times, rows, findings)
        table.save(out / "table.json")
        console.print(f"page {out / 'report.html'}")
    return {
        "target": device.name,
        "table": str(path),
        "modelled": table.modelled,
        "operations": len(table.times),
        "added": added,
        "overhead_ms": table.overhead_ms,
        "networks": {name: {"latency_modelled_ms": found.ms, "low_ms": found.low_ms, "high_ms": found.high_ms}
                     for name, found in predictions.items()},
        "findings": {name: [_finding(item, table) for item in found] for name, found in findings.items()},
    }  # fmt: skip


def lint_model(
    model: str, target: str, size: Size, bits: str, threads: int | None, timed: Timed, console: Console
) -> dict[str, Any]:
    """The findings about one network on `target`; of a run, about the first point of its front."""
    device = load_target(target)
    table = open_table(device, threads)
    name, program = next(_programs([model], bits, console))
    plan, layers = layers_of(program, device, size)
    _fill(table, layers, device, timed, console)
    found = _lint(layers, table, device, timed, console)
    predicted = table.predict(plan, size, device.limits.memory_bytes)
    _say(name, predicted, table, size, console)
    _say_findings(found, table, console)
    return {"model": name, "target": device.name, "operations": table.metric, "latency_modelled_ms": predicted.ms,
            "findings": [_finding(item, table) for item in found]}  # fmt: skip


def _programs(models: Sequence[str], bits: str, console: Console) -> Iterator[tuple[str, GraphModule]]:
    """Names and integer programs: of the front of a run, of a quantized folder, or of a model with uniform bits."""
    for model in models:
        folder = Path(model)
        if (folder / CONFIG).is_file() or (folder / MODELS).is_file():
            for run in map(Run.open, run_folders([folder])):
                network, history = run.network(), load_history(run.folder / "search")
                for point in front(history.points, history.objectives):
                    program = network.program(point.allocation, run.finetuned(point))
                    yield f"{run.folder.name} {point.number}", program
        elif (folder / SUMMARY).is_file():
            yield folder.name, load_program(folder)
        else:
            yield model, _uniform(model, bits, console)


def _uniform(model: str, bits: str, console: Console) -> GraphModule:
    """A model at uniform bits; a configuration without weights gets random ones, which no time depends on."""
    loaded = build(model) if is_configuration(model) else load(model)
    with bar(console, "calibrating") as progress:
        images = samples.calibration_images(loaded.upscale, _IMAGES)
        network = CalibratedNetwork.make(loaded, images, progress=progress)
    return network.program(parse_bits(bits, network.sites))


def _fill(table: OperationTable, layers: Sequence[Layer], target: Target, timed: Timed, console: Console) -> int:
    with bar(console, "modelling" if table.modelled else "timing") as progress:
        return fill(table, layers, target, timed, progress)


def _lint(
    layers: Sequence[Layer], table: OperationTable, target: Target, timed: Timed, console: Console
) -> list[Finding]:
    with bar(console, "alternatives") as progress:
        return lint(layers, table, target, timed, progress)


def _say(name: str, found: Predicted, table: OperationTable, size: Size, console: Console) -> None:
    kind = "modelled" if table.modelled else "predicted"
    console.print(
        f"{name} at {size[1]}x{size[0]} on {table.target}: {found.ms:.2f} ms {kind}, {table.threads} "
        f"thread{'s' * (table.threads > 1)}"
    )


def _say_operations(times: Sequence[OperationTime], table: OperationTable, console: Console) -> None:
    """One line each, the dearest first."""
    for time in sorted(times, key=lambda time: -time.ms):
        spread = "modelled" if table.modelled else f"{time.low_ms:.3f} to {time.high_ms:.3f}"
        console.print(f"{time.ms:9.3f} ms ({spread})  {time.label}, {time.size[1]}x{time.size[0]}, {time.form}")


def _say_findings(found: Sequence[Finding], table: OperationTable, console: Console) -> None:
    kind = " (modelled)" if table.modelled else ""
    for item in found:
        layers = f"{len(item.layers)} layers" if len(item.layers) > 1 else item.layers[0]
        instead = f" against {item.alternative}" if item.alternative else ""
        console.print(f"  {item.saves:.2f} ms{kind}: {item.rule}, {item.operation} ({layers}){instead}: {item.advice}")


def _finding(item: Finding, table: OperationTable) -> dict[str, Any]:
    value = asdict(item)
    value[f"saves_{'modelled_' * table.modelled}ms"] = value.pop("saves")
    return value


def _prediction_row(name: str, found: Predicted, table: OperationTable, size: Size) -> dict[str, str]:
    return {
        "network": name,
        "image": f"{size[1]}×{size[0]}",
        f"{'modelled' if table.modelled else 'predicted'} ms": f"{found.ms:.2f}",
        "interval": "" if table.modelled else f"{found.low_ms:.2f}–{found.high_ms:.2f}",
    }
