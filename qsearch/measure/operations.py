"""The operation latency table of a device: what each kernel call of integer programs takes there, by shape.

A table is of one device, instruction set and number of threads, and is wholly measured or wholly modelled. It is kept
with the compiled kernels, one JSON file per target and kernel source, and predicts whole networks as the sum of their
kernel calls and a fixed overhead.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qsearch.compile import cache
from qsearch.compile.plan import Plan
from qsearch.compile.specs import ConvSpec, KernelSpec
from qsearch.errors import QsearchError
from qsearch.files import read_json, write_json
from qsearch.measure.devices import can_be_timed
from qsearch.measure.tiling import tiles_of
from qsearch.target import Target

OPERATIONS = "operations"
"""The folder of tables beside that of compiled kernels."""
_VERSION = 1
Size = tuple[int, int]


@dataclass(frozen=True)
class Operation:
    """One kernel call: a kernel on an input of `size` = (rows, columns)."""

    spec: KernelSpec
    size: Size

    @property
    def key(self) -> str:
        """Equal for equal operations."""
        return f"{self.spec.symbol}@{self.size[0]}x{self.size[1]}"

    @property
    def pixels(self) -> int:
        """Of the input."""
        return self.size[0] * self.size[1]

    @property
    def gmac(self) -> float:
        """10⁹ multiply-accumulates of the convolution; 0 for the image."""
        if not isinstance(self.spec, ConvSpec):
            return 0.0
        rows, columns = self.spec.output_size(*self.size)
        taps = self.spec.kernel[0] * self.spec.kernel[1] * self.spec.in_channels / self.spec.groups
        return rows * columns / self.spec.shuffle**2 * taps * self.spec.out_channels / 1e9

    @property
    def form(self) -> str:
        """How it is computed."""
        return self.spec.algorithm if isinstance(self.spec, ConvSpec) else "image"

    @property
    def label(self) -> str:
        """As in `conv 3×3 64→64 + skip`; channels are those that are stored."""
        spec = self.spec
        if not isinstance(spec, ConvSpec):
            return f"image {spec.channels}→4"
        parts = [f"conv {spec.kernel[0]}×{spec.kernel[1]} {spec.in_channels}→{spec.out_channels}"]
        parts += [f"groups {spec.groups}"] if spec.groups > 1 else []
        parts += [f"shuffle {spec.shuffle}"] if spec.shuffle > 1 else []
        extras = ["PReLU"] * spec.prelu + ["anchor" if skip.repeat > 1 else "skip" for skip in spec.skips]
        extras += [f"{len(spec.outputs)} outputs"] * (len(spec.outputs) > 1)
        extras += ["joined"] * any(output.joined for output in spec.outputs)
        extras += ["piecewise"] * any(output.piecewise for output in spec.outputs)
        return " + ".join([" ".join(parts), *extras])


@dataclass(frozen=True)
class OperationTime:
    """One line of a table."""

    label: str
    form: str
    size: Size
    ms: float
    """Median of the rounds, or modelled: the table says which."""
    low_ms: float
    high_ms: float
    """Bounds of the 95 % confidence interval of the median; equal where modelled."""
    min_ms: float
    """The fastest round: on a machine with other work the figure that repeats."""
    rounds: int
    gmac: float
    date: str = ""
    """When it was measured: a table grows over time."""

    @property
    def pixels(self) -> int:
        """Of the input."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class Predicted:
    """What a table says of a whole network: a `latency_modelled_ms`, though its parts may be measured."""

    ms: float
    low_ms: float
    high_ms: float
    """The sums of the operations' bounds."""
    min_ms: float
    """The sum of their fastest rounds, to be compared with the fastest run of the network."""
    scaled: int
    """Operations whose time was taken from another image size, in proportion to the pixels."""
    missing: tuple[str, ...]
    """Labels of operations that the table has at no size; without them the sum is a lower bound."""
    modelled: bool


@dataclass
class OperationTable:
    """Operations of one device by `Operation.key`."""

    target: str
    isa: str
    threads: int
    modelled: bool
    conditions: dict[str, Any]
    overhead_ms: float = 0.0
    """Of a whole network: time that is in none of its kernel calls."""
    times: dict[str, OperationTime] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """What the figures of its operations are called; those of whole networks are modelled in any case."""
        return "latency_modelled_ms" if self.modelled else "latency_ms"

    def missing(self, operations: Iterable[Operation]) -> list[Operation]:
        """Those that are not in the table at their size, each once."""
        return [found for found in dict.fromkeys(operations) if found.key not in self.times]

    def find(self, operation: Operation) -> tuple[OperationTime, float] | None:
        """The operation's line and 1, else that of the nearest other size and the pixels over its; None: neither."""
        exact = self.times.get(operation.key)
        if exact is not None:
            return exact, 1.0
        kernel = f"{operation.spec.symbol}@"
        others = [time for key, time in self.times.items() if key.startswith(kernel)]
        if not others:
            return None
        near = min(others, key=lambda time: abs(time.pixels / operation.pixels - 1))
        return near, operation.pixels / near.pixels

    def predict(self, plan: Plan, size: Size, limit_bytes: int | None = None) -> Predicted:
        """The whole network on an image of `size` = (height, width), in the tiles of an artefact of that memory."""
        (rows, columns), tiles = tiles_of(plan, size, limit_bytes)
        sums, scaled, missing = np.zeros(4), 0, []
        for operation in operations_of(plan, (rows, columns)):
            found = self.find(operation)
            if found is None:
                missing.append(operation.label)
                continue
            time, factor = found
            scaled += factor != 1.0
            sums += np.array([time.ms, time.low_ms, time.high_ms, time.min_ms]) * factor
        ms, low, high, fastest = (sums * tiles + self.overhead_ms).tolist()
        return Predicted(ms, low, high, fastest, scaled, tuple(dict.fromkeys(missing)), self.modelled)

    def save(self, path: Path) -> None:
        """Write the table, atomically."""
        rows = {
            key: {
                "label": time.label,
                "form": time.form,
                "size": f"{time.size[1]}x{time.size[0]}",
                self.metric: time.ms,
                **({} if self.modelled else _spread(time)),
                "gmac": time.gmac,
            }
            for key, time in self.times.items()
        }
        head = {"version": _VERSION, "target": self.target, "isa": self.isa, "threads": self.threads}
        value = {**head, "modelled": self.modelled, "conditions": self.conditions, "overhead_ms": self.overhead_ms}
        write_json(path, {**value, "operations": rows})

    @staticmethod
    def load(path: Path) -> "OperationTable":
        """The table in `path`; raises `QsearchError` where there is none of this version."""
        value = read_json(path)
        try:
            if value["version"] != _VERSION:
                raise KeyError("version")
            table = OperationTable(value["target"], value["isa"], value["threads"], value["modelled"],
                                   value["conditions"], value["overhead_ms"])  # fmt: skip
            table.times = {key: _time(row, table.metric) for key, row in value["operations"].items()}
        except (KeyError, TypeError, ValueError) as error:
            raise QsearchError(f"{path} is not an operation table of this version: remove it") from error
        return table


def _spread(time: OperationTime) -> dict[str, float | str]:
    return {"low_ms": time.low_ms, "high_ms": time.high_ms, "min_ms": time.min_ms, "rounds": time.rounds,
            "date": time.date}  # fmt: skip


def _time(row: Mapping[str, Any], metric: str) -> OperationTime:
    width, height = map(int, row["size"].split("x"))
    ms = float(row[metric])
    low, high, fastest = (float(row.get(name, ms)) for name in ("low_ms", "high_ms", "min_ms"))
    rounds = row.get("rounds", 0)
    date = row.get("date", "")
    return OperationTime(row["label"], row["form"], (height, width), ms, low, high, fastest, rounds, row["gmac"], date)


def operations_of(plan: Plan, size: Size) -> list[Operation]:
    """The kernel calls of `plan` for an image of `size` = (height, width), in order."""
    sizes = plan.sizes(*size)
    return [Operation(step.spec, sizes[step.input]) for step in plan.steps]


def table_path(target: Target, threads: int, folder: Path | None = None) -> Path:
    """Where the table of a target is kept: it changes with the device, the threads and the kernels' source."""
    described = target.model_dump_json(exclude={"description", "source", "limits", "reach"})
    parts = [described, str(can_be_timed(target)), str(threads), cache.source_digest()]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return (folder or cache.default_folder().parent) / OPERATIONS / f"{target.name}-{threads}t-{digest}.json"
