"""Runs plans for other processors: all their kernels in one static executable, under user-mode emulation."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsearch.compile import glue, kernels, link
from qsearch.compile.cache import kernel_object
from qsearch.compile.plan import INPUT, OUTPUT, Plan


@dataclass(frozen=True)
class Machine:
    """An emulated processor: the kernel's architecture, the triple of its C code, and the emulator's command."""

    arch: str
    triple: str
    emulator: tuple[str, ...]

    @property
    def available(self) -> bool:
        """Whether the emulator is installed."""
        return shutil.which(self.emulator[0]) is not None


def _arm64(cpu: str) -> Machine:
    return Machine("aarch64", "aarch64-linux-musl", ("qemu-aarch64", "-cpu", cpu))


MACHINES = {
    "arm_i8mm": _arm64("max"),
    "arm_dotprod": _arm64("cortex-a76"),
    "arm_neon": _arm64("cortex-a53"),
    "armv7_neon": Machine("armv7", "arm-linux-musleabihf", ("qemu-arm", "-cpu", "cortex-a7")),
}
"""The weakest processor that the emulator knows for every instruction set."""


class Emulated:
    """The executable of all kernels of `plans`, which are for one instruction set, in `folder`."""

    def __init__(self, plans: Sequence[Plan], machine: Machine, folder: Path, cache: Path) -> None:
        (isa,) = {plan.isa for plan in plans}
        target = kernels.kernel_target(isa, machine.arch)
        self.kernels = list(dict.fromkeys(spec for plan in plans for spec in plan.kernels))
        self.machine, self.executable = machine, folder / "emulated"
        objects = [str(kernel_object(spec, isa, target, cache)) for spec in self.kernels]
        (folder / "kernels.h").write_text("".join(f"KERNEL(__tvm_ffi_{spec.symbol})\n" for spec in self.kernels))
        shutil.copy(Path(__file__).with_name("emulated.c"), folder)
        main = link.compile_c("emulated.c", machine.triple, folder, Path(str(glue.RUNTIME)))
        link.link_executable([main, *objects], "emulated", machine.triple, folder)

    def run(self, cases: Sequence[tuple[Plan, np.ndarray]]) -> list[np.ndarray]:
        """The output of every plan for its image."""
        stream = b"".join(self._case(plan, image) for plan, image in cases)
        command = [*self.machine.emulator, str(self.executable)]
        done = subprocess.run(command, input=stream, capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode()}")
        outputs, at = [], 0
        for plan, image in cases:
            shape = plan.buffers[OUTPUT].shape(plan.sizes(*image.shape[:2])[OUTPUT])
            size = int(np.prod(shape))
            outputs.append(np.frombuffer(done.stdout[at : at + size], np.uint8).reshape(shape))
            at += size
        return outputs

    def _case(self, plan: Plan, image: np.ndarray) -> bytes:
        sizes = plan.sizes(*image.shape[:2])
        names, parts = [*plan.buffers, *plan.params], []
        for name, buffer in plan.buffers.items():
            given = image if name == INPUT else None
            parts.append(_tensor(np.dtype(np.uint8), buffer.shape(sizes[name]), given, int(buffer.slot is None)))
        parts += [_tensor(value.dtype, value.shape, value, 0) for value in plan.params.values()]
        for step in plan.steps:
            arguments = [names.index(name) for name in step.arguments]
            parts.append(_words(2, self.kernels.index(step.spec), len(arguments), *arguments))
        return b"".join([*parts, _words(3, names.index(OUTPUT), 4)])


def _tensor(dtype: np.dtype, shape: Sequence[int], values: np.ndarray | None, misalignment: int) -> bytes:
    code = {"i": 0, "u": 1, "f": 2}[dtype.kind]
    data = b"" if values is None else values.tobytes()
    return _words(1, code, dtype.itemsize * 8, misalignment, len(shape), *shape, len(data)) + data


def _words(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()
