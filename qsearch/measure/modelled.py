"""Latency on boards that are not there, from the machine code of a plan's kernels: modelled, never measured.

The cycles of every kernel are those of its compiled loops (`qsearch.measure.cycles`): how often each loop runs follows
from the kernel's TIR and the image's size, what one round takes from llvm-mca with the core's scheduling model, or from
counted instructions and the core's rates. Data is taken to be in the first cache, except that a kernel cannot be faster
than the memory for buffers that fit in no cache. So small differences mean little; the order of kernels is the point.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache as memoize
from pathlib import Path

import numpy as np

from qsearch.compile import cache, kernels, tuning
from qsearch.compile.packing import Convolution
from qsearch.compile.plan import Plan, Step
from qsearch.compile.specs import ConvSpec, KernelSpec, OutSpec, stored
from qsearch.errors import QsearchError
from qsearch.files import read_json, write_json
from qsearch.host import detect_host
from qsearch.measure.cycles import mca
from qsearch.measure.cycles.cores import Core, core_of
from qsearch.measure.cycles.kernel import KernelCycles, kernel_cycles, method
from qsearch.measure.layer_times import LayerMs
from qsearch.target import Target

CYCLES = "cycles"
"""The folder of modelled cycles within that of compiled kernels."""
_CHOICE_SIZE = (180, 320)


@dataclass(frozen=True)
class ModelledStep:
    """One kernel call."""

    name: str
    form: str
    """Its algorithm, or `image`."""
    modelled_ms: float
    cycles: float
    """Of all its tasks together, memory not counted."""
    memory_bound: bool


@dataclass(frozen=True)
class ModelledLatency:
    """A modelled latency with what it was modelled by."""

    latency_modelled_ms: float
    steps: tuple[ModelledStep, ...]
    conditions: dict[str, str]
    """Target, core, clock, threads, image size, and the methods that gave the cycles."""


def latency_modelled_ms(
    plan: Plan,
    target: Target,
    size: tuple[int, int] = _CHOICE_SIZE,
    threads: int | None = None,
    folder: Path | None = None,
) -> ModelledLatency:
    """The modelled latency of `plan` on `target` for an image of `size` = (height, width); nothing is run.

    `threads` defaults to the target's. Cycles are kept in `folder`, by default that of compiled kernels. Raises
    `QsearchError` for a core or an instruction set of which there is no model.
    """
    core, count = core_of(target), threads or target.threads
    sizes = plan.sizes(*size)
    steps, methods = [], dict[str, None]()
    for step in plan.steps:
        found = cycles_of(step.spec, plan.isa, target.arch, core, sizes[step.input], folder)
        methods[found.method] = None
        steps.append(_step(step, found, _traffic(plan, step, sizes), core, count))
    conditions = {
        "target": target.name,
        "core": core.name,
        "clock": f"{core.clock_ghz:g} GHz",
        "threads": str(count),
        "size": f"{size[1]}x{size[0]}",
        "isa": plan.isa,
        "method": "modelled, not measured: " + "; ".join(methods),
    }
    return ModelledLatency(sum(step.modelled_ms for step in steps), tuple(steps), conditions)


def describe(target: Target, threads: int | None = None) -> str:
    """What models latency on `target`, in words for tables and reports; raises `QsearchError` as `modelled` does."""
    core = core_of(target)
    if target.isa not in kernels.ISAS:
        raise QsearchError(f"target {target.name}: there is no cycle model of its {target.isa!r} kernels")
    triple = kernels.kernel_target(target.isa, target.arch).get("mtriple", "")
    count = threads or target.threads
    return (
        f"modelled, not measured: {core.name} at {core.clock_ghz:g} GHz, {count} thread{'s' * (count > 1)}, "
        f"{target.isa} kernels, by {method(core, mca.knows(triple, core.mca_cpu))}"
    )


def kernel_ms(
    spec: KernelSpec, isa: str, target: Target, size: tuple[int, int], threads: int, folder: Path | None = None
) -> float:
    """The modelled time of one kernel on an input of `size` = (rows, columns), on buffers of its own."""
    core = core_of(target)
    return _milliseconds(
        cycles_of(spec, isa, target.arch, core, size, folder), _own_traffic(spec, size), core, threads
    )[0]


def _step(step: Step, found: KernelCycles, traffic: int, core: Core, threads: int) -> ModelledStep:
    ms, memory_bound = _milliseconds(found, traffic, core, threads)
    form = step.spec.algorithm if isinstance(step.spec, ConvSpec) else "image"
    return ModelledStep(step.name, form, ms, found.cycles, memory_bound)


def _milliseconds(found: KernelCycles, traffic: int, core: Core, threads: int) -> tuple[float, bool]:
    """The time of a kernel, and whether memory decides it."""
    # Tasks are of equal size: the thread with the most of them is the last.
    share = math.ceil(found.tasks / threads) / found.tasks
    computing_ms = found.cycles * share / (core.clock_ghz * 1e6)
    memory_ms = traffic / (core.bandwidth_gb_s * 1e6) if traffic > core.cache_bytes else 0.0
    launch_ms = core.launch_us / 1e3 if threads > 1 else 0.0
    return max(computing_ms, memory_ms) + launch_ms, memory_ms > computing_ms


def _own_traffic(spec: KernelSpec, size: tuple[int, int]) -> int:
    """Bytes of all buffers that a kernel on an input of `size` reads and writes."""

    def plane(rows: int, columns: int, border: int) -> int:
        return (rows + 2 * border) * (columns + 2 * border)

    rows, columns = spec.output_size(*size)
    if not isinstance(spec, ConvSpec):
        return rows * columns * spec.channels + plane(rows, columns, spec.border) * stored(spec.channels)
    total = plane(*size, spec.in_border) * spec.in_channels
    shuffled = rows // spec.shuffle, columns // spec.shuffle
    total += sum(plane(*shuffled, skip.border) * skip.channels for skip in spec.skips)
    return total + sum(plane(rows, columns, output.border) * output.pitch for output in spec.outputs)


def _traffic(plan: Plan, step: Step, sizes: dict[str, tuple[int, int]]) -> int:
    """Bytes of all buffers that a step reads and writes."""
    names = {step.input, *step.skips, *step.outputs}
    return sum(int(np.prod(plan.buffers[name].shape(sizes[name]))) for name in names)


@dataclass(frozen=True)
class Modelled:
    """A `kernels.Timed` that takes the form with the fewest modelled cycles on `core`."""

    arch: str
    core: Core
    folder: Path | None

    def __call__(self, spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
        """The form with the fewest cycles."""
        return tuning.fastest(self.costs(spec, isa, conv))

    def costs(self, spec: ConvSpec, isa: str, conv: Convolution) -> dict[ConvSpec, float]:
        """Cycles per pixel of the layer's input of every form."""
        rows, columns = _CHOICE_SIZE
        forms = kernels.candidates(spec, isa, conv)
        if len(forms) == 1:
            return {forms[0]: 0.0}
        return {form: self._cycles(form, isa) / (rows * columns) for form in forms}

    def _cycles(self, form: ConvSpec, isa: str) -> float:
        return cycles_of(_plain(form), isa, self.arch, self.core, _CHOICE_SIZE, self.folder).cycles


def modelled(target: Target, folder: Path | None = None) -> Modelled:
    """`Modelled` for the core of `target`, with cycles kept in `folder` (default: that of compiled kernels).

    Raises `QsearchError` for a core of which there is no model.
    """
    return Modelled(target.arch, core_of(target), folder)


def modelled_layer_ms(target: Target, threads: int | None = None) -> LayerMs:
    """The modelled time of the fastest form of a layer on `target`, without its skip operands."""
    core, choose, count = core_of(target), modelled(target), threads or target.threads

    def layer_ms(spec: ConvSpec, isa: str, conv: Convolution, size: tuple[int, int]) -> float:
        found = cycles_of(_plain(choose(spec, isa, conv)), isa, target.arch, core, size)
        return found.cycles * math.ceil(found.tasks / count) / found.tasks / (core.clock_ghz * 1e6)

    return layer_ms


def choice_for(target: Target) -> kernels.Choose:
    """How the kernels of `target` are chosen: measured where it is this machine, modelled where its core is known."""
    here = detect_host()
    if (target.arch, target.cpu) != (here.arch, here.cpu) and can_be_modelled(target):
        return modelled(target)
    return tuning.for_target(target)


def can_be_modelled(target: Target) -> bool:
    """Whether there is a cycle model of the core and of the kernels of `target`."""
    try:
        describe(target)
    except QsearchError:
        return False
    return True


def _plain(form: ConvSpec) -> ConvSpec:
    """A form with a plain epilogue: what else it does after its sums is the same for all forms."""
    outputs = tuple(OutSpec(output.channels, output.border) for output in form.outputs[:1])
    return replace(form, outputs=outputs, skips=(), prelu=False)


def cycles_of(
    spec: KernelSpec, isa: str, arch: str, core: Core, size: tuple[int, int], folder: Path | None = None
) -> KernelCycles:
    """`kernel_cycles`, remembered in this process and on disk."""
    # Boards with the same core share them.
    bare = replace(core, clock_ghz=1.0, cache_bytes=0, bandwidth_gb_s=1.0, launch_us=0.0, source="")
    return _known(spec, isa, arch, bare, size, folder or cache.default_folder())


@memoize
def _known(spec: KernelSpec, isa: str, arch: str, core: Core, size: tuple[int, int], folder: Path) -> KernelCycles:
    path = folder / CYCLES / f"{spec.symbol}-{isa}-{core.name}-{_key(spec, isa, arch, core, size)}.json"
    try:
        return KernelCycles(**read_json(path))
    except (QsearchError, TypeError):
        pass  # absent or damaged: modelled again
    found = kernel_cycles(spec, isa, arch, core, size)
    write_json(path, asdict(found))
    return found


def _key(spec: KernelSpec, isa: str, arch: str, core: Core, size: Sequence[int]) -> str:
    parts = [repr(spec), isa, arch, repr(core), repr(size), repr(mca.find_tool()), cache.source_digest(), _sources()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


@memoize
def _sources() -> str:
    files = sorted((Path(__file__).parent / "cycles").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
