"""Convolution kernels as TIR, and the choice of the instruction set."""

from functools import cache
from typing import Any

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels import direct, image, narrow
from qsearch.compile.kernels.avx2 import AVX2
from qsearch.compile.kernels.avx512_vnni import AVX512_VNNI
from qsearch.compile.kernels.avx_vnni import AVX_VNNI
from qsearch.compile.kernels.generic import GENERIC
from qsearch.compile.kernels.isa import Isa
from qsearch.compile.specs import ConvSpec, ImageSpec, KernelSpec

# Best first.
ISAS: dict[str, Isa] = {isa.name: isa for isa in (AVX512_VNNI, AVX_VNNI, AVX2, GENERIC)}


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


def _kernel(spec: KernelSpec, isa: Isa) -> direct.Direct | narrow.Narrow | image.Image:
    if isinstance(spec, ImageSpec):
        return image.Image(spec)
    return narrow.Narrow(spec, isa) if narrow.applies(spec, isa) else direct.Direct(spec, isa)


def lane_order(spec: ConvSpec, isa: str) -> list[int | None]:
    """The network's output channel of every lane of the kernel's per-channel parameters; `None` for padding."""
    return _template(spec, isa).lane_order(spec, ISAS[isa])


def pack_weight(spec: ConvSpec, isa: str, weight: np.ndarray) -> np.ndarray:
    """int8 weights [out_channels, in_channels, rows, columns] in the order in which the kernel reads them."""
    return _template(spec, isa).pack_weight(spec, ISAS[isa], weight)


def _template(spec: ConvSpec, isa: str) -> Any:
    return narrow if narrow.applies(spec, ISAS[isa]) else direct


@cache
def host_isas() -> tuple[str, ...]:
    """The instruction sets that this machine runs, best first."""
    features = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    have = {name for name, present in features.items() if present}
    return tuple(name for name, isa in ISAS.items() if have.issuperset(isa.features))


def host_target(isa: str) -> dict[str, Any]:
    """The LLVM target of kernels for `isa` on this machine's architecture: its features, no particular processor."""
    features = [f"+{feature}" for feature in ISAS[isa].features]
    return {"kind": "llvm", "mattr": features} if features else {"kind": "llvm"}
