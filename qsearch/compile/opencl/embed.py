"""The C data of a network that an OpenCL device runs: its program as text, and how every step is launched."""

import re

from qsearch.compile.glue import Interface
from qsearch.compile.opencl.shape import Gpu, Shape
from qsearch.compile.opencl.source import program
from qsearch.compile.plan import Plan
from qsearch.compile.specs import ConvSpec, KernelSpec, stored

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


class EmbeddedProgram:
    """Kernels as OpenCL C inside the executable, compiled by the device's driver; see `glue.Engine`."""

    files: tuple[str, ...] = ("params", "opencl_library", "opencl_device", "opencl")
    note = (
        "Runs on an OpenCL device, whose libOpenCL it loads at run time (link with -ldl): numbers of threads are not\n"
        " * used, and the workspace lies on the device, so that the one given may be NULL."
    )

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    def declarations(self, plan: Plan, interface: Interface) -> list[str]:
        """See `glue.Engine.declarations`."""
        parts = program(plan.kernels, self.gpu)
        texts = list(dict.fromkeys(parts))
        lines = [f"static const char qs_text_{i}[] =\n{_literal(text)};" for i, text in enumerate(texts)]
        lines.append(f"#define QS_NUM_SOURCES {len(parts)}\n#define QS_WORK_ITEMS {self.gpu.work_items}")
        listed = ", ".join(f"qs_text_{texts.index(part)}" for part in parts)
        lines.append(f"static const char *const qs_sources[QS_NUM_SOURCES] = {{{listed}}};")
        lines.append("static const qs_launch qs_launches[QS_NUM_STEPS] = {")
        lines += [f'  {{"{step.spec.symbol}", {_launch(step.spec, self.gpu)}}},' for step in plan.steps]
        return [*lines, "};"]

    def kernel(self, interface: Interface, kernel: str) -> str:
        """See `glue.Engine.kernel`."""
        return "NULL"


def _launch(spec: KernelSpec, gpu: Gpu) -> str:
    if isinstance(spec, ConvSpec):
        shape = Shape(spec)
        return f"{shape.blocks}, {shape.pixels(gpu)}, 0"
    return f"{stored(spec.channels) // 4}, 1, {spec.border}"


def _literal(text: str) -> str:
    """`text` as C string literals, one for each line, without comments."""
    lines = [line.rstrip() for line in _COMMENT.sub("", text).splitlines()]
    escaped = [line.replace("\\", "\\\\").replace('"', '\\"') for line in lines if line]
    return "\n".join(f'"{line}\\n"' for line in escaped)
