"""Generates the C data of one network: its buffers, kernel calls and parameters, and its header."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Protocol

import numpy as np

from qsearch.compile.plan import INPUT, OUTPUT, Plan, Step
from qsearch.compile.specs import ConvSpec
from qsearch.compile.weights import Stored, Transform
from qsearch.errors import QsearchError

RUNTIME = files("qsearch.compile") / "runtime"
_ALIGN = 64
_TYPE_CODE = {"i": 0, "u": 1, "f": 2}
_SHIM_SYMBOLS = ("TVMFFIErrorSetRaisedFromCStr", "__TVMBackend", "__tvm_ffi_")


@dataclass(frozen=True)
class Interface:
    """What the C code of a network promises: its name (prefix of every symbol) and limits, in input pixels."""

    name: str
    min_height: int
    min_width: int
    memory_limit_bytes: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", self.name):
            raise QsearchError(
                f"network name {self.name!r} cannot be a C prefix: use lower-case letters, digits and underscores"
            )
        if self.name == "golden" or re.match(r"qs(_|$)", self.name):
            raise QsearchError(f"network name {self.name!r} is reserved: choose another")


class Engine(Protocol):
    """What the C code of a network calls its kernels with."""

    files: tuple[str, ...]
    """The runtime's sources that implement it."""
    note: str
    """What the header says about it."""

    def declarations(self, plan: Plan, interface: Interface) -> list[str]:
        """C that the table of steps and `files` refer to."""
        ...

    def kernel(self, interface: Interface, kernel: str) -> str:
        """The C expression of type `qs_kernel` for a kernel's symbol."""
        ...


class LinkedKernels:
    """Kernels as functions of objects that are linked to the network."""

    files: tuple[str, ...] = ("params", "cpu", "threads", "shim", "engine")
    note = ""

    def declarations(self, plan: Plan, interface: Interface) -> list[str]:
        """See `Engine.declarations`."""
        kernels = sorted({step.spec.symbol for step in plan.steps})
        return [
            f"int32_t {self.kernel(interface, kernel)}(void *, const TVMFFIAny *, int32_t, TVMFFIAny *);"
            for kernel in kernels
        ]

    def kernel(self, interface: Interface, kernel: str) -> str:
        """See `Engine.kernel`."""
        return symbol(interface.name, f"__tvm_ffi_{kernel}")


class Traversal(Protocol):
    """How an image goes through the kernel calls of a network: the public functions that take images."""

    files: tuple[str, ...]
    """The runtime's sources that implement it, after those of the engine and `copy`."""
    header: str
    """The runtime's part of the public header."""
    main_defines: tuple[str, ...]
    """What the command line is told."""
    options: tuple[str, ...]
    """Of the compiler of the network's sources, besides those of all."""

    def values(self) -> Mapping[str, object]:
        """What `header` names between @."""
        ...

    def declarations(self, plan: Plan) -> list[str]:
        """C that `files` refer to."""
        ...


class WholeImages:
    """All steps on the whole image, or on tiles of it."""

    files: tuple[str, ...] = ("pieces", "tiles", "whole")
    header = "whole.h"
    main_defines: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def values(self) -> Mapping[str, object]:
        """See `Traversal.values`."""
        return {}

    def declarations(self, plan: Plan) -> list[str]:
        """See `Traversal.declarations`."""
        return []


def symbol(name: str, original: str) -> str:
    """The symbol in network `name` for `original` of a kernel object; functions of the C library keep theirs."""
    return f"{name}_{original}" if original.startswith(_SHIM_SYMBOLS) else original


def header(plan: Plan, interface: Interface, engine: Engine, traversal: Traversal) -> str:
    """The public C header."""
    values: dict[str, object] = {
        "name": interface.name,
        "upscale": plan.upscale,
        "min_height": interface.min_height,
        "min_width": interface.min_width,
        "halo": plan.halo,
        "num_steps": len(plan.steps),
        "engine": engine.note and f"\n *\n * {engine.note}",
        "memory_limit": f"{interface.memory_limit_bytes >> 20} MiB",
        **traversal.values(),
    }
    text = (RUNTIME / "template.h").read_text().replace("@images@\n", (RUNTIME / traversal.header).read_text() + "\n")
    return re.sub(r"@(\w+?)@", lambda match: str(values[match[1]]), text)


def network_source(
    plan: Plan, interface: Interface, engine: Engine, traversal: Traversal, places: dict[str, Stored], digest: str
) -> str:
    """The C source of the network: its data, then the runtime that interprets them.

    `digest` of the parameters stands in the text so that a compiler cache notices other parameters.
    """
    buffers, params = list(plan.buffers), list(plan.params)
    slots = 1 + max((buffer.slot for buffer in plan.buffers.values() if buffer.slot is not None), default=-1)
    defines = {
        "QS_NUM_BUFFERS": len(buffers),
        "QS_NUM_SLOTS": slots,
        "QS_NUM_PARAMS": max(len(params), 1),
        "QS_NUM_STEPS": len(plan.steps),
        "QS_MAX_ARGS": max(len(step.arguments) for step in plan.steps),
        "QS_INPUT": buffers.index(INPUT),
        "QS_OUTPUT": buffers.index(OUTPUT),
        f"QS_ISA_{plan.isa}": 1,
        "QS_HALO": plan.halo,
        "QS_UPSCALE": plan.upscale,
        "QS_MIN_HEIGHT": interface.min_height,
        "QS_MIN_WIDTH": interface.min_width,
        "QS_BAD_SIZE": "QS_NAME(BAD_SIZE)",
        "QS_NO_MEMORY": "QS_NAME(NO_MEMORY)",
        "QS_KERNEL_FAILED": "QS_NAME(KERNEL_FAILED)",
    }
    lines = [_prologue(interface), *(f"#define {key} {value}" for key, value in defines.items())]
    lines += ['#include "qs_network.h"', f"/* params.bin: sha256 {digest} */"]
    data = symbol(interface.name, "__tvm_ffi_params")
    lines.append(
        f'__asm__(".section .rodata\\n.balign {_ALIGN}\\n.hidden {data}\\n.global {data}\\n{data}:\\n'
        '.incbin \\"params.bin\\"\\n.byte 0\\n.previous\\n");'
    )
    lines.append(f"extern const uint8_t {data}[];\n#define qs_param_data {data}")
    lines += engine.declarations(plan, interface)
    lines.append("static const qs_buffer qs_buffers[QS_NUM_BUFFERS] = {")
    lines += [f"  {{{b.channels}, {b.border}, {_slot(plan, name)}}}, /* {name} */" for name, b in plan.buffers.items()]
    lines.append("};")
    transforms = list(dict.fromkeys(p.transform for p in places.values() if p.transform))
    lines += [line for index, transform in enumerate(transforms) for line in _transform(index, transform)]
    lines.append("static const qs_param qs_params[QS_NUM_PARAMS] = {")
    lines += [f"  {_param(plan.params[name], places[name], transforms)}, /* {name} */" for name in params]
    lines.append("};\nstatic const qs_step qs_steps[QS_NUM_STEPS] = {")
    lines += [f"  {_step(step, engine.kernel(interface, step.spec.symbol), buffers, params)}," for step in plan.steps]
    lines.append("};")
    lines += traversal.declarations(plan)
    lines += [f'#include "{file}.c"' for file in ("text", *engine.files, "copy", *traversal.files, "api")]
    return "\n".join(lines) + "\n"


def main_source(interface: Interface, traversal: Traversal) -> str:
    """The C source of the executable's command line."""
    lines = [_prologue(interface), f'#define QS_NETWORK "{interface.name}"']
    lines += [f"#define {name} 1" for name in traversal.main_defines]
    return "\n".join([*lines, '#include "text.h"', *(f'#include "{file}.c"' for file in ("ppm", "main"))]) + "\n"


def _prologue(interface: Interface) -> str:
    name = interface.name
    limit = f"#define QS_MEMORY_LIMIT UINT64_C({interface.memory_limit_bytes})"
    return f'#include "{name}.h"\n#define QS_NAME(x) {name}_##x\n{limit}'


def _slot(plan: Plan, name: str) -> str:
    special = {INPUT: "QS_SLOT_INPUT", OUTPUT: "QS_SLOT_OUTPUT"}
    return special.get(name) or str(plan.buffers[name].slot)


def _transform(index: int, transform: Transform) -> list[str]:
    rows, taps = transform.matrix.shape
    matrix, sizes = (", ".join(map(str, values)) for values in (transform.matrix.ravel(), transform.sizes))
    return [
        f"static const int8_t qs_matrix{index}[] = {{{matrix}}};",
        f"static const int32_t qs_part_sizes{index}[] = {{{sizes}}};",
        f"static const qs_transform qs_transform{index} = "
        f"{{{rows}, {taps}, {len(transform.sizes)}, qs_part_sizes{index}, qs_matrix{index}}};",
    ]


def _param(value: np.ndarray, place: Stored, transforms: list[Transform]) -> str:
    code, bits = _TYPE_CODE[value.dtype.kind], value.dtype.itemsize * 8
    transform = f"&qs_transform{transforms.index(place.transform)}" if place.transform else "0"
    return f"{{{transform}, {place.offset}, {value.size}, {{{code}, {bits}, 1}}, {place.bits}}}"


def _step(step: Step, kernel: str, buffers: list[str], params: list[str]) -> str:
    spec = step.spec
    shape = (1, 1, 1, 0, 0, 1)
    if isinstance(spec, ConvSpec):
        shape = (*spec.kernel, spec.stride, *spec.padding, spec.shuffle)
    num_buffers = 1 + len(step.skips) + len(step.outputs)
    arguments = [buffers.index(name) for name in step.arguments[:num_buffers]]
    arguments += [params.index(name) for name in step.params]
    numbers = [*shape, num_buffers, 1 + len(step.skips), len(step.params)]
    listed = ", ".join(map(str, arguments))
    return f'{{{kernel}, "{step.name}", {", ".join(map(str, numbers))}, {{{listed}}}}}'
