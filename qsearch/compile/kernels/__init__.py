"""Convolution kernels as TIR, and the choice of the instruction set."""

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T

from qsearch.compile import opencl, portable
from qsearch.compile.kernels import bits, direct, gather, image, matmul, narrow, winograd
from qsearch.compile.kernels.algorithm import Algorithm, Kernel
from qsearch.compile.kernels.arm_dotprod import ARM_DOTPROD
from qsearch.compile.kernels.arm_i8mm import ARM_I8MM
from qsearch.compile.kernels.arm_neon import ARM_NEON
from qsearch.compile.kernels.armv7_neon import ARMV7_NEON
from qsearch.compile.kernels.avx2 import AVX2
from qsearch.compile.kernels.avx512_popcnt import AVX512_POPCNT
from qsearch.compile.kernels.avx512_vnni import AVX512_VNNI
from qsearch.compile.kernels.avx_vnni import AVX_VNNI
from qsearch.compile.kernels.generic import GENERIC
from qsearch.compile.kernels.isa import Isa
from qsearch.compile.llvm import c_target, llvm_target
from qsearch.compile.packing import Convolution
from qsearch.compile.specs import ConvSpec, ImageSpec, KernelSpec
from qsearch.host import detect_host

# Best first.
ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        AVX512_POPCNT,
        AVX512_VNNI,
        AVX_VNNI,
        AVX2,
        ARM_I8MM,
        ARM_DOTPROD,
        ARM_NEON,
        ARMV7_NEON,
        GENERIC,
    )
}
# Those whose kernels are text that another compiler reads, with one form of every convolution.
_TEXTS: dict[str, Any] = {opencl.ISA: opencl, portable.ISA: portable}
# By the part of `ConvSpec.algorithm` before a colon.
ALGORITHMS: dict[str, Algorithm] = {
    "bits": bits,
    "narrow": narrow,
    "matmul": matmul,
    "winograd": winograd,
    "gather": gather,
    "direct": direct,
}


def prim_func(spec: KernelSpec, isa: str) -> PrimFunc:
    """The TIR of `spec` for instruction set `isa`; its arguments are those of the spec."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(spec.symbol)
            T.func_attr({"tirx.noalias": True})
            kernel = _kernel(spec, ISAS[isa])
            with T.parallel(kernel.height) as y:
                kernel.task(y)
        return builder.get()


def _kernel(spec: KernelSpec, isa: Isa) -> Kernel:
    return image.Image(spec) if isinstance(spec, ImageSpec) else algorithm(spec).kernel(spec, isa)


def algorithm(spec: ConvSpec) -> Algorithm:
    """The algorithm that `spec` names."""
    return ALGORITHMS[spec.algorithm.split(":")[0]]


def candidates(spec: ConvSpec, isa: str, conv: Convolution) -> list[ConvSpec]:
    """`spec` in every form that gives exact sums for the weights and the input values of `conv`."""
    if isa in _TEXTS:
        return [_TEXTS[isa].form(spec, conv)]
    return [form for method in ALGORITHMS.values() for form in method.forms(spec, ISAS[isa], conv)]


def pack(spec: ConvSpec, isa: str, conv: Convolution) -> dict[str, np.ndarray]:
    """The parameters of `conv` as the kernel of `spec` reads them, by the names of `spec.param_names`."""
    if isa in _TEXTS:
        return dict(_TEXTS[isa].pack(spec, conv))
    return dict(algorithm(spec).pack(spec, ISAS[isa], conv))


def linear_weights(spec: ConvSpec, isa: str) -> tuple[np.ndarray, list[int]] | None:
    """How the packed weights of a form follow from fewer numbers: see `winograd.linear_weights`; None: they do not."""
    return winograd.linear_weights(spec, ISAS[isa]) if spec.algorithm.startswith("winograd") else None


Choose = Callable[[ConvSpec, str, Convolution], ConvSpec]
"""Picks one of `candidates` for a layer on an instruction set."""


@runtime_checkable
class Timed(Protocol):
    """A `Choose` that knows how long the forms of a layer take."""

    def __call__(self, spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
        """As `Choose`."""
        ...

    def costs(self, spec: ConvSpec, isa: str, conv: Convolution) -> dict[ConvSpec, float]:
        """The time of every candidate per pixel of the layer's input, in one unit for all layers."""
        ...


def plain(spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
    """The form that needs nothing of the values: every allocation of a network then runs on the same kernels."""
    if isa in _TEXTS:
        return candidates(spec, isa, conv)[0]
    return next(form for method in (narrow, matmul, direct) for form in method.forms(spec, ISAS[isa], conv))


class Expected:
    """A `Timed` for machines where nothing can be measured: the form that is fastest by rule, the first candidate."""

    def __call__(self, spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
        """The first of `candidates`."""
        return candidates(spec, isa, conv)[0]

    def costs(self, spec: ConvSpec, isa: str, conv: Convolution) -> dict[ConvSpec, float]:
        """The rank of every candidate, which stands for its time."""
        return {form: float(rank) for rank, form in enumerate(candidates(spec, isa, conv))}


expected = Expected()


@cache
def host_isas() -> tuple[str, ...]:
    """The instruction sets that this machine runs, best first."""
    features = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    have = {name for name, present in features.items() if present}
    arch = detect_host().arch
    found = [name for name, isa in ISAS.items() if isa.arch in (None, arch) and have.issuperset(isa.features)]
    return (*found, portable.ISA)


def host_target(isa: str) -> dict[str, Any]:
    """The compiler target of kernels for `isa` on this machine's architecture."""
    return kernel_target(isa, detect_host().arch)


def kernel_target(isa: str, arch: str) -> dict[str, Any]:
    """The compiler target of kernels for `isa` on `arch`: its features, no particular processor."""
    return c_target(arch) if isa == portable.ISA else llvm_target(arch, ISAS[isa].features)
