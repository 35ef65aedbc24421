"""Filling operation tables: measured on the target's device where it can be timed, else by the cycle model."""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from torch.fx import GraphModule

from qsearch.compile import code_budget, kernels
from qsearch.compile.packing import Convolution
from qsearch.compile.plan import Plan, build
from qsearch.compile.specs import ConvSpec, stored
from qsearch.measure.bench import interval_width
from qsearch.measure.devices import Device, can_be_timed, open_device
from qsearch.measure.modelled import choice_for, describe, kernel_ms
from qsearch.measure.operations import Operation, OperationTable, OperationTime, Size, operations_of, table_path
from qsearch.measure.probe import Probe, build_probe, probe_step
from qsearch.measure.tiling import tiles_of
from qsearch.measure.timers import median_interval, now_conditions
from qsearch.target import Target

Report = Callable[[int, int], None]

_LOOKS = (8, 16, 32, 64, 128, 256)
# Short processes: a long one is more likely to share its processor with another for a while.
_PROCESS_MS = 8.0
_TINY = (16, 16)


@dataclass(frozen=True)
class Layer:
    """A kernel call of a network, and what it computes (None: the image)."""

    name: str
    operation: Operation
    conv: Convolution | None


@dataclass(frozen=True)
class Timed:
    """How long and how well operations are timed."""

    ci_limit: float = 0.02
    seconds: float = 60.0
    rounds: int = 64


def plan_of(program: GraphModule, target: Target) -> Plan:
    """The plan that an artefact for `target` has."""
    return code_budget.build(program, target.isa, target.arch, choice_for(target))


def layers_of(program: GraphModule, target: Target, size: Size) -> tuple[Plan, list[Layer]]:
    """The plan for `target` and its kernel calls, in the tiles into which an artefact cuts an image of `size`."""
    plan, convolutions = plan_of(program, target), _convolutions(program, target.isa)
    tile, _ = tiles_of(plan, size, target.limits.memory_bytes)
    operations = operations_of(plan, tile)
    return plan, [
        Layer(step.name, operation, convolutions.get(step.name))
        for step, operation in zip(plan.steps, operations, strict=True)
    ]


def _convolutions(program: GraphModule, isa: str) -> dict[str, Convolution]:
    """What the convolutions compute, by the names of their steps."""
    seen: list[Convolution] = []

    def note(spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
        seen.append(conv)
        return kernels.plain(spec, isa, conv)

    names = [step.name for step in build(program, isa, note).steps if isinstance(step.spec, ConvSpec)]
    return dict(zip(names, seen, strict=True))


def probe_of(layer: Layer, isa: str) -> Probe:
    """The layer as a probe."""
    spec = layer.operation.spec
    if not isinstance(spec, ConvSpec) or layer.conv is None:
        pad = {"pad": np.zeros(stored(3), np.uint8)}
        return Probe(layer.operation, {name: pad[name] for name in spec.param_names})
    return Probe(layer.operation, kernels.pack(spec, isa, layer.conv))


def open_table(target: Target, threads: int | None = None, folder: Path | None = None) -> OperationTable:
    """The table of `target` so far, which may be empty."""
    count = threads or target.threads
    path = table_path(target, count, folder)
    if path.is_file():
        return OperationTable.load(path)
    timed = can_be_timed(target)
    if not timed:
        describe(target, count)  # raises where there is no model
    return OperationTable(target.name, target.isa, count, not timed, {})


def fill(
    table: OperationTable,
    layers: Sequence[Layer],
    target: Target,
    timed: Timed | None = None,
    report: Report | None = None,
    folder: Path | None = None,
) -> int:
    """Add what `table` lacks of `layers`, save it, and return how many operations were added.

    Raises `QsearchError` for a target that can be neither timed nor modelled.
    """
    lacking = set(table.missing(layer.operation for layer in layers))
    wanted = {layer.operation: layer for layer in layers if layer.operation in lacking}
    if not wanted:
        return 0
    if table.modelled:
        _model(table, list(wanted), target, report)
    else:
        probes = [probe_of(layer, table.isa) for layer in wanted.values()]
        with open_device(target) as device:
            _measure(table, probes, target, device, timed or Timed(), report)
    table.save(table_path(target, table.threads, folder))
    return len(wanted)


def _model(table: OperationTable, operations: Sequence[Operation], target: Target, report: Report | None) -> None:
    for done, operation in enumerate(operations, 1):
        ms = kernel_ms(operation.spec, table.isa, target, operation.size, table.threads)
        table.times[operation.key] = OperationTime(
            operation.label, operation.form, operation.size, ms, ms, ms, ms, 0, operation.gmac
        )
        if report:
            report(done, len(operations))
    table.conditions = {"method": describe(target, table.threads)}


def _measure(
    table: OperationTable,
    probes: Sequence[Probe],
    target: Target,
    device: Device,
    timed: Timed,
    report: Report | None,
) -> None:
    groups: dict[Size, list[Probe]] = {}
    for probe in probes:
        groups.setdefault(probe.operation.size, []).append(probe)
    with tempfile.TemporaryDirectory(prefix="qsearch-probe-") as name:
        built = {
            size: build_probe(group, target, Path(name) / f"{index}")
            for index, (size, group) in enumerate(groups.items())
        }
        before = device.reading()
        conditions = now_conditions(target.name, table.threads, None, 0)
        if not table.times:
            table.overhead_ms = _overhead_ms(next(iter(built.values())), device, table.threads)
        samples = _rounds(device, built, groups, table.threads, timed, report)
    for probe in probes:
        operation = probe.operation
        found = samples[operation]
        median, low, high = (round(value, 6) for value in median_interval(found))
        table.times[operation.key] = OperationTime(
            operation.label, operation.form, operation.size, median, low, high, min(found), len(found), operation.gmac,
            conditions.date,
        )  # fmt: skip
    cpu = conditions.cpu if target.reach.kind == "local" else target.cpu
    table.conditions = asdict(
        replace(conditions, cpu=cpu, rounds=len(next(iter(samples.values()))), load_average=before.load_average)
    )


def _rounds(
    device: Device,
    built: dict[Size, Path],
    groups: dict[Size, list[Probe]],
    threads: int,
    timed: Timed,
    report: Report | None,
) -> dict[Operation, list[float]]:
    """Samples of every operation: processes of all sizes in turn, until every interval is narrow."""
    samples: dict[Operation, list[float]] = {probe.operation: [] for group in groups.values() for probe in group}
    first = {size: sum(device.profile(artefact, size, threads).values()) for size, artefact in built.items()}
    runs = {size: max(1, min(20, round(_PROCESS_MS / max(ms, 1e-3)))) for size, ms in first.items()}
    began = time.monotonic()
    for done in range(1, timed.rounds + 1):
        for size in built if done % 2 else reversed(built):
            found = device.profile(built[size], size, threads, runs[size])
            for index, probe in enumerate(groups[size]):
                samples[probe.operation].append(found[probe_step(index)])
        if report:
            report(done, timed.rounds)
        narrow = all(interval_width(*median_interval(values)) <= timed.ci_limit for values in samples.values())
        if time.monotonic() - began > timed.seconds or (done in _LOOKS and narrow):
            break
    return samples


def _overhead_ms(artefact: Path, device: Device, threads: int) -> float:
    """Time of a whole run on a tiny image that is in none of its steps."""
    whole = device.bench(artefact, 16, _TINY, threads, seconds=5.0).latency_ms
    steps = [sum(device.profile(artefact, _TINY, threads, 20).values()) for _ in range(9)]
    overhead = whole - median_interval(steps)[0]
    return round(max(overhead, 0.0), 6) if math.isfinite(overhead) else 0.0
