"""The cycles of one kernel on one core, from its machine code; nothing of it is run."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import tirx

from qsearch.compile import cache, kernels
from qsearch.compile.packing import Convolution, Requantization
from qsearch.compile.specs import ConvSpec, KernelSpec
from qsearch.errors import QsearchError
from qsearch.measure.cycles import counting, mca
from qsearch.measure.cycles.blocks import Kernel
from qsearch.measure.cycles.cores import Core
from qsearch.measure.cycles.machine import blocks_of
from qsearch.measure.cycles.scopes import Scopes

_PIPELINE = "qsearch-marked"
# Code with less than this share of the instructions that run is only counted.
_NEGLIGIBLE = 0.002


@dataclass(frozen=True)
class KernelCycles:
    """What all tasks of a kernel take together on one core, and the number of tasks."""

    cycles: float
    tasks: int
    instructions: float
    """Instructions that run."""
    method: str


@dataclass(frozen=True)
class Analysis:
    """A compiled kernel: its loops, and the instructions of every block by its line in `kernel`."""

    kernel: Kernel
    code: Mapping[int, list[str]]
    function: Any
    """Keeps the variables of its shapes alive."""


def kernel_cycles(spec: KernelSpec, isa: str, arch: str, core: Core, size: tuple[int, int]) -> KernelCycles:
    """The cycles of the kernel of `spec` for `isa` on an image of `size` = (rows, columns), its input without border.

    Raises `QsearchError` for an instruction set whose kernels are not made by LLVM here.
    """
    if isa not in kernels.ISAS:
        raise QsearchError(
            f"there is no cycle model of {isa!r} kernels: it needs machine code, of {list(kernels.ISAS)}"
        )
    analysis = analyse(spec, isa, arch)
    border = spec.in_border if isinstance(spec, ConvSpec) else 0
    rows, columns = (hash(extent) for extent in analysis.function.params[0].shape[:2])
    sizes = {rows: size[0] + 2 * border, columns: size[1] + 2 * border, **lengths(spec, isa, analysis.function)}
    executions = analysis.kernel.scopes.executions(sizes)
    regions = []
    for region in analysis.kernel.regions(executions):
        code = [line for block in analysis.code if block in region.blocks for line in analysis.code[block]]
        if code:
            regions.append((region.times, code))
    target = kernels.kernel_target(isa, arch)
    features = tuple(feature.removeprefix("+") for feature in target.get("mattr", ()))
    simulated = mca.knows(target["mtriple"], core.mca_cpu)
    instructions = sum(times * len(code) for times, code in regions)
    total, missed = 0.0, 0.0
    for times, code in regions:
        taken = None
        if simulated and times * len(code) >= _NEGLIGIBLE * instructions:
            taken = mca.cycles(target["mtriple"], core.mca_cpu, features, code)
            missed += times * len(code) if taken is None else 0
        total += times * (counting.cycles(core, code) if taken is None else taken)
    tasks = sum(executions[scope.number] for scope in analysis.kernel.scopes.all if scope.parallel)
    counted = f", {missed / instructions:.0%} of the instructions by counts" if missed else ""
    return KernelCycles(total, max(round(tasks), 1), instructions, method(core, simulated) + counted)


def lengths(spec: KernelSpec, isa: str, function: Any) -> dict[int, int]:
    """The lengths of parameters that a kernel gets from outside, by the hash of their variables."""
    arguments = function.params[len(function.params) - len(spec.param_names) :]
    open_ends = [
        (name, argument.shape[0])
        for name, argument in zip(spec.param_names, arguments, strict=True)
        if isinstance(argument.shape[0], tirx.Var)
    ]
    if not open_ends or not isinstance(spec, ConvSpec):
        return {}
    channels = spec.out_channels
    zeros, ones = np.zeros(channels, np.int32), np.ones(channels, np.float32)
    outputs = [
        Requantization(ones, ones, np.ones(6 if output.piecewise else 3, np.int32), np.zeros(output.channels, np.uint8))
        for output in spec.outputs
    ]
    weight = np.zeros((channels, spec.in_channels // spec.groups, *spec.kernel), np.int8)
    conv = Convolution(weight, spec.groups, zeros, zeros, [zeros] * len(spec.skips), outputs, (0, 1))
    packed = kernels.pack(spec, isa, conv)
    return {hash(extent): len(packed[name]) for name, extent in open_ends}


def method(core: Core, simulated: bool) -> str:
    """What gives the cycles of a core, in words."""
    tool = mca.find_tool()
    if not simulated or tool is None:
        return f"instruction counts and the rates of {core.name}"
    return f"llvm-mca {tool[1]} with the scheduling model of {core.mca_cpu}"


@lru_cache(maxsize=256)
def analyse(spec: KernelSpec, isa: str, arch: str) -> Analysis:
    """Compiles the kernel, twice through LLVM's back end: what is analysed is the machine code of `kernel_object`."""
    scopes = Scopes()
    function = kernels.prim_func(spec, isa)
    tirx.register_tir_pipeline(_PIPELINE, lambda: _marking(scopes))
    module = tvm.IRModule({spec.symbol: function})
    compiled = cache.compile_module(module, kernels.kernel_target(isa, arch), _PIPELINE)
    kernel = Kernel(compiled.inspect_source("ll"), scopes)
    with tempfile.TemporaryDirectory(prefix="qsearch-") as folder:
        path = Path(folder) / "kernel.ll"
        path.write_text(kernel.text)
        assembly = tvm.runtime.load_module(str(path)).inspect_source("s")
    return Analysis(kernel, blocks_of(assembly), function)


def _marking(scopes: Scopes) -> tuple[Any, Any, Any]:
    """The pipeline of kernels with marks on what it hands to LLVM."""
    passes, finish_host, finish_device = cache.pipeline()

    def mark(module: tvm.IRModule, _: Any) -> tvm.IRModule:
        functions = dict(module.functions.items())
        return tvm.IRModule({name: f.with_body(scopes.mark(f.body)) for name, f in functions.items()})

    marking = tvm.ir.transform.module_pass(mark, opt_level=0)
    return passes, lambda: tvm.ir.transform.Sequential([finish_host(), marking]), finish_device
