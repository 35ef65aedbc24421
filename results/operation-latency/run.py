"""What every operation takes on this machine, and how well whole networks follow from that.

    python results/operation-latency/run.py [--only NAME] [--threads N] [--seconds S] [--priority]

The first part is the table of the usual operations (`qsearch profile`), measured here and modelled for two boards that
are not here. The second predicts fourteen networks and sizes from operations that are timed alone, in an executable of
their own, and then times their artefacts (`qsearch bench`), from a uint8 image to a uint8 image; the error is predicted
over measured time less one. Networks have random weights, which no time depends on. The third is what `qsearch lint`
says of some of them. Run it on a quiet machine; where other work cannot be stopped, `--priority` runs the executables
with real-time priority (`chrt`, as root). `--only` does one network, or `operations`, again and keeps the others. It
writes table.json, operations.svg and README.md here.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.fx import GraphModule

from qsearch import samples
from qsearch.allocation import uniform
from qsearch.compile.artefact import build_artefact
from qsearch.files import read_json, write_atomic, write_json
from qsearch.measure.devices import open_device
from qsearch.measure.lint import Finding, lint
from qsearch.measure.modelled import choice_for
from qsearch.measure.operations import OperationTable
from qsearch.measure.profiling import Layer, Timed, fill, layers_of, open_table
from qsearch.measure.vocabulary import vocabulary
from qsearch.models import build
from qsearch.network import CalibratedNetwork
from qsearch.report.operations_page import save_operations
from qsearch.target import Target, load_target

HERE = Path(__file__).parent
LIMIT, SIZE, BENCH_ROUNDS = 0.05, (180, 320), 64
BOARDS = ("raspberry-pi-4", "cortex-a76")
LINTED = ("abpn_f28_x3", "edsr_r8f64_x2", "srresnet_r8_x4", "carn_m_x4")

PAGE = """# Operation latency

Made by `python results/operation-latency/run.py` on {date}: {cpu}, {threads} thread{s}, load average {load} before the
first round{priority}. Medians with the 95 % confidence interval of the median.

## Whole networks from their operations

A network is predicted as the sum of its kernel calls, each timed alone, and {overhead:.3f} ms. **Median error
{median:.1%}** over {count} networks and sizes (wanted: at most {limit:.0%}), largest {largest:.1%}. Of the fastest
runs, which other work on the machine disturbs least: median {median_min:.1%}, largest {largest_min:.1%}.

| network | bits | image | predicted ms | measured ms | error | fastest, predicted | fastest, measured | error |
|---|---|---|---|---|---|---|---|---|
{networks}

## Operations

{target}, {isa} kernels, W8A8, an input of {columns}×{rows} pixels. A ReLU, a clip, a pixel shuffle and a concatenation
are no operations of their own: they are clip bounds and addresses of the convolution that writes. The boards' columns
are modelled from machine code, at {threads} thread{s}: nothing there is measured.

![operations](operations.svg)

| operation | ms | interval | {boards} |
|---|---|---|{rule}
{operations}

## What costs more than it brings

`qsearch lint`: what would save at least one hundredth of the network's time here. What it would cost in quality is not
in the table.

{findings}
"""


@dataclass(frozen=True)
class Network:
    """A configuration, the size (height, width) of its image, and its bits."""

    configuration: str
    size: tuple[int, int]
    bits: int = 8
    """Of weights and inputs: fewer take other forms of the kernels."""

    @property
    def name(self) -> str:
        """As in `abpn_f28_x3 w8a8 640x360`."""
        return f"{self.configuration} w{self.bits}a{self.bits} {self.size[1]}x{self.size[0]}"


NETWORKS = {
    network.name: network
    for network in (
        Network("abpn_f28_x3", (180, 320)),
        Network("abpn_f28_x3", (360, 640)),
        Network("abpn_f28_x4", (180, 320)),
        Network("edsr_r4f16_x2", (270, 480)),
        Network("edsr_r8f32_x2", (180, 320)),
        Network("edsr_r8f32_x3", (180, 320)),
        Network("edsr_r8f64_x2", (135, 240)),
        Network("edsr_r9f64_x4", (90, 160)),
        Network("edsr_r16f64_x4", (90, 160)),
        Network("srresnet_r8_x4", (90, 160)),
        Network("carn_m_x4", (90, 160)),
        Network("imdn_lite_x4", (90, 160)),
        Network("abpn_f28_x3", (180, 320), 6),
        Network("edsr_r9f64_x4", (90, 160), 4),
    )
}


def this_machine(priority: bool, folder: Path) -> Target:
    """The host, its executables started with real-time priority where that is wanted."""
    host = load_target("host")
    if not priority:
        return host
    reach = {"kind": "command", "copy": "cp {source} {destination}", "run": "chrt -f 10 sh -c {command}",
             "folder": str(folder)}  # fmt: skip
    return Target.model_validate({**host.model_dump(by_alias=True), "name": "host-priority", "reach": reach})


def program_of(network: Network) -> GraphModule:
    """The integer program at the network's bits."""
    model = build(network.configuration)
    calibrated = CalibratedNetwork.make(model, samples.calibration_images(model.upscale, 2))
    return calibrated.program(uniform(calibrated.sites, network.bits, network.bits))


def measure(network: Network, table: OperationTable, target: Target, timed: Timed, folder: Path) -> dict[str, Any]:
    """Predict, then time one network; lint it where that is wanted."""
    program = program_of(network)
    plan, layers = layers_of(program, target, network.size)
    fill(table, layers, target, timed)
    predicted = table.predict(plan, network.size, target.limits.memory_bytes)
    artefact = folder / "artefact"
    build_artefact(program, artefact, target, name="network", choose=choice_for(target))
    with open_device(target) as device:
        found = device.bench(artefact, BENCH_ROUNDS, network.size, table.threads, seconds=timed.seconds)
    return {
        "size": f"{network.size[1]}x{network.size[0]}",
        "predicted": {"latency_modelled_ms": predicted.ms, "low_ms": predicted.low_ms, "high_ms": predicted.high_ms,
                      "min_ms": predicted.min_ms},
        "measured": asdict(found),
        "error": predicted.ms / found.latency_ms - 1,
        "error_min": predicted.min_ms / found.min_ms - 1,
        "kernel_calls": len(layers),
        "findings": findings_of(network, layers, table, target, timed),
    }  # fmt: skip


def findings_of(
    network: Network, layers: list[Layer], table: OperationTable, target: Target, timed: Timed
) -> list[dict[str, Any]]:
    """What lint says, at the first size of the networks that are linted."""
    first = next(other for other in NETWORKS.values() if other.configuration == network.configuration)
    if network.configuration not in LINTED or network != first:
        return []
    found: list[Finding] = lint(layers, table, target, timed)
    return [asdict(finding) for finding in found]


def operations(table: OperationTable, target: Target, timed: Timed) -> dict[str, Any]:
    """The usual operations here, and modelled elsewhere; draws the chart."""
    layers = vocabulary(target, SIZE)
    fill(table, layers, target, timed)
    times = [table.times[layer.operation.key] for layer in layers]
    save_operations(HERE / "operations.svg", times, table)
    boards = {}
    for name in BOARDS:
        board = load_target(name)
        there = open_table(board, table.threads)
        known = vocabulary(board, SIZE)
        fill(there, known, board)
        boards[name] = [there.times[layer.operation.key].ms for layer in known]
    return {
        "rows": [asdict(time) for time in times],
        "latency_modelled_ms": boards,
        "conditions": table.conditions,
        "overhead_ms": table.overhead_ms,
        "isa": table.isa,
    }


def page(content: dict[str, Any]) -> str:
    """README.md from table.json."""
    rows, found = content["operations"], content["networks"]
    conditions, threads = rows["conditions"], content["threads"]
    errors = [abs(row["error"]) for row in found.values()]
    errors_min = [abs(row["error_min"]) for row in found.values()]
    boards = rows["latency_modelled_ms"]
    return PAGE.format(
        date=conditions["date"][:10], cpu=conditions["cpu"], load=conditions["load_average"], threads=threads,
        s="s" * (threads > 1), overhead=rows["overhead_ms"], median=statistics.median(errors), count=len(errors),
        priority=", executables with real-time priority" if content["priority"] else "",
        limit=LIMIT, largest=max(errors), median_min=statistics.median(errors_min), largest_min=max(errors_min),
        networks="\n".join(network_line(name, row) for name, row in found.items()),
        target="This machine", isa=rows["isa"], columns=SIZE[1], rows=SIZE[0],
        boards=" | ".join(f"{name}, modelled ms" for name in boards), rule="---|" * len(boards),
        operations="\n".join(
            f"| {row['label']} | {row['ms']:.3f} | {row['low_ms']:.3f}–{row['high_ms']:.3f} | "
            + " | ".join(f"{boards[name][index]:.2f}" for name in boards) + " |"
            for index, row in enumerate(rows["rows"])),
        findings="\n".join(finding_lines(found)),
    )  # fmt: skip


def network_line(name: str, row: dict[str, Any]) -> str:
    """One line of the first table."""
    predicted, measured = row["predicted"], row["measured"]
    return (
        f"| {name.split()[0]} | {name.split()[1]} | {row['size']} | {predicted['latency_modelled_ms']:.2f} "
        f"| {measured['latency_ms']:.2f} ({measured['low_ms']:.2f}–{measured['high_ms']:.2f}) | {row['error']:+.1%} "
        f"| {predicted['min_ms']:.2f} | {measured['min_ms']:.2f} | {row['error_min']:+.1%} |"
    )


def finding_lines(found: dict[str, dict[str, Any]]) -> list[str]:
    """The last table, or that there is nothing to say."""
    lines = ["| network | finding | operation | instead | layers | saves ms |", "|---|---|---|---|---|---|"]
    for name, row in found.items():
        for item in row["findings"]:
            lines.append(
                f"| {name} | {item['rule']} | {item['operation']} | {item['alternative'] or 'nothing'} "
                f"| {len(item['layers'])} | {item['saves']:.2f} |"
            )
    return lines if len(lines) > 2 else ["Nothing."]


def main() -> None:
    """Measure what is asked for and write the files."""
    parser = argparse.ArgumentParser(description="Operations of this machine, and networks predicted from them.")
    parser.add_argument("--only", choices=["operations", *NETWORKS], help="one part; the others stay as they are")
    parser.add_argument("--threads", type=int, default=1, help="threads, 1 by default")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for every part's rounds")
    parser.add_argument("--priority", action="store_true", help="run the executables with real-time priority")
    given = parser.parse_args()
    timed = Timed(seconds=given.seconds)
    known = read_json(HERE / "table.json") if given.only and (HERE / "table.json").is_file() else {}
    content: dict[str, Any] = {
        "threads": given.threads,
        "operations": {},
        "networks": {},
        **known,
        "priority": given.priority,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        target = this_machine(given.priority, folder / "there")
        table = open_table(target, given.threads)
        if not given.only:
            table.times.clear()
        if given.only in (None, "operations"):
            content["operations"] = operations(table, target, timed)
        for network in [NETWORKS[given.only]] if given.only in NETWORKS else NETWORKS.values():
            if given.only == "operations":
                break
            with tempfile.TemporaryDirectory(dir=folder) as part:
                row = measure(network, table, target, timed, Path(part))
            content["networks"][network.name] = row
            print(f"{network.name}: error {row['error']:+.1%}, of the fastest runs {row['error_min']:+.1%}", flush=True)
            write_json(HERE / "table.json", content)
    content["networks"] = {name: content["networks"][name] for name in NETWORKS if name in content["networks"]}
    write_json(HERE / "table.json", content)
    if content["operations"] and content["networks"]:
        write_atomic(HERE / "README.md", page(content))
    print(json.dumps({name: round(row["error"], 4) for name, row in content["networks"].items()}))


if __name__ == "__main__":
    main()
