"""How fast kernels are, beside the fastest that the processor's multiplier could be."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm
import tvm_ffi
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import PrimFunc
from tvm.tirx.script.builder import ir as T

from qsearch.compile import cache, kernels, threads
from qsearch.compile.host import HostNetwork
from qsearch.compile.kernels.emit import Register, tensor
from qsearch.compile.kernels.isa import Isa
from qsearch.compile.specs import ConvSpec
from qsearch.errors import QsearchError

# Enough independent sums to hide the latency, few enough for the registers of every instruction set.
_REGISTERS = 12
_STEPS = 100_000


@dataclass(frozen=True)
class StepTime:
    """The shortest time of one kernel call, and its multiplications (stored input channels, real output channels)."""

    name: str
    spec: ConvSpec
    best_ms: float
    gmac: float


def step_times(network: HostNetwork, image: np.ndarray, rounds: int) -> list[StepTime]:
    """The convolutions of `network` in order, each timed alone in `rounds` runs over `image`."""
    best: dict[str, float] = {}
    for _ in range(rounds):
        for name, seconds in network.run_timed(image):
            best[name] = min(best.get(name, seconds), seconds)
    sizes = network.plan.sizes(image.shape[0], image.shape[1])
    result = []
    for step in network.plan.steps:
        if isinstance(step.spec, ConvSpec):
            rows, columns = sizes[step.outputs[0]]
            taps = step.spec.kernel[0] * step.spec.kernel[1] * step.spec.in_channels
            gmac = rows * columns / step.spec.shuffle**2 * taps * step.spec.out_channels / 1e9
            result.append(StepTime(step.name, step.spec, best[step.name] * 1e3, gmac))
    return result


def peak_loop(isa: str, threads_used: int) -> tuple[Callable[[], None], float]:
    """A function that only multiplies, in registers, and the 10^9 multiply-accumulates that one call does.

    Time it between the kernels it is compared with: the clock of a processor changes with its load. Only for
    instruction sets that multiply and add in one instruction; LLVM would move other multiplications out of the loop.
    """
    if not isa.endswith(("vnni", "popcnt")):
        raise QsearchError(f"no peak is known for '{isa}' kernels, only for those of VNNI")
    lanes, symbol = kernels.ISAS[isa].lanes, "peak"
    module = tvm.IRModule({symbol: _peak(kernels.ISAS[isa], symbol)})
    function = cache.compile_module(module, kernels.host_target(isa))[symbol]
    data = tvm_ffi.from_dlpack(np.ones((_STEPS, lanes * 4), np.int8))
    sums = tvm_ffi.from_dlpack(np.zeros((threads_used, _REGISTERS * lanes), np.int32))

    def call() -> None:
        threads.use(threads_used)
        function(data, sums)

    return call, threads_used * _STEPS * _REGISTERS * lanes * 4 / 1e9


def _peak(isa: Isa, symbol: str) -> PrimFunc:
    lanes = isa.lanes
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(symbol)
            steps, tasks = T.int32(), T.int32()
            data = tensor("data", (steps, lanes * 4), "int8", aligned=False)
            sums = tensor("sums", (tasks, _REGISTERS * lanes), "int32", aligned=False)
            with T.parallel(tasks) as task:
                local = T.alloc_buffer((_REGISTERS * lanes,), "int32", scope="local")
                acc = [Register(local, i * lanes, lanes) for i in range(_REGISTERS)]
                for register in acc:
                    register.store(T.broadcast(T.int32(0), lanes))
                operand = T.Bind(data.vload([0, 0], f"int8x{lanes * 4}"))
                weight = [T.Bind(w) for w in isa.prepare_weight(operand)]
                quads = T.reinterpret(operand, dtype=f"int32x{lanes}")
                activation = [T.Bind(a) for a in isa.prepare_activation(quads)]
                with T.serial(steps):
                    for register in acc:
                        register.store(isa.dot(register.load(), activation, weight))
                for i, register in enumerate(acc):
                    T.buffer_store(sums, register.load(), [task, T.ramp(i * lanes, 1, lanes)])
        return builder.get()
