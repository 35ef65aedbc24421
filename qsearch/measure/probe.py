"""An executable that runs single kernel calls, so that any device that runs artefacts can time them one by one.

Every operation is a step of one plan, on buffers of its own: small convolutions of the image write its skip operands
and then its input just before it, as the layers before it do in a network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qsearch.compile import glue, kernels
from qsearch.compile.artefact import compile_plan
from qsearch.compile.manifest import FORMAT, digests, write_manifest
from qsearch.compile.packing import Convolution, Requantization
from qsearch.compile.plan import INPUT, OUTPUT, Buffer, Plan, Step
from qsearch.compile.planning import with_slots
from qsearch.compile.specs import ConvSpec, ImageSpec, OutSpec, stored
from qsearch.errors import QsearchError
from qsearch.measure.operations import Operation
from qsearch.target import Target

NAME = "probe"
_IMAGE, _IMAGE_CHANNELS = "pixels", 3
# Nothing is to be cut into tiles here.
_MEMORY_BYTES = 1 << 40


@dataclass(frozen=True)
class Probe:
    """An operation and the packed parameters of one layer that does it, by `ConvSpec.param_names`."""

    operation: Operation
    params: Mapping[str, np.ndarray]


def probe_step(index: int) -> str:
    """The step's name of the probe `index` in `probe_plan`."""
    return f"op{index}"


def probe_plan(probes: Sequence[Probe], isa: str) -> Plan:
    """One plan that runs every probe once on an image of their common size; its output is of no interest."""
    builder = _Builder(isa)
    for index, probe in enumerate(probes):
        builder.add(index, probe)
    return builder.finish()


def build_probe(probes: Sequence[Probe], target: Target, folder: Path) -> Path:
    """Write a folder that `Device.profile` runs; raises `QsearchError` for operations of several sizes."""
    if len({probe.operation.size for probe in probes}) != 1:
        raise QsearchError("operations of several sizes do not go into one probe")
    plan = probe_plan(probes, target.isa)
    folder.mkdir(parents=True)
    compile_plan(plan, glue.Interface(NAME, 1, 1, _MEMORY_BYTES), target, folder)
    manifest = {
        "format": FORMAT,
        "name": NAME,
        "executable": NAME,
        "upscale": plan.upscale,
        "halo": plan.halo,
        "golden": {},
        "latency": [],
        "target": {"name": target.name, "arch": target.arch, "isa": plan.isa},
    }
    write_manifest(folder, {**manifest, "files": digests(folder)})
    return folder


@dataclass
class _Builder:
    isa: str
    buffers: dict[str, Buffer] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    params: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.buffers[INPUT] = Buffer(INPUT, _IMAGE_CHANNELS, 0, 1, 1, None)
        self.buffers[_IMAGE] = Buffer(_IMAGE, stored(_IMAGE_CHANNELS), 0, 1, 1, None)
        self._step(Step(_IMAGE, ImageSpec(_IMAGE_CHANNELS, 0), INPUT, (), (_IMAGE,), ()), {})

    def add(self, index: int, probe: Probe) -> None:
        """Writers of all operands, the input's last, then the operation."""
        spec, name = probe.operation.spec, probe_step(index)
        if isinstance(spec, ImageSpec):
            self._buffer(f"{name}.out", stored(spec.channels), spec.border)
            self._step(Step(name, spec, INPUT, (), (f"{name}.out",), ()), probe.params)
            return
        skips = tuple(f"{name}.skip{k}" for k in range(len(spec.skips)))
        for skip, operand in zip(skips, spec.skips, strict=True):
            self._head(skip, operand.channels, operand.border)
        self._head(f"{name}.in", spec.in_channels, spec.in_border)
        outputs = tuple(f"{name}.out{k}" for k in range(len(spec.outputs)))
        for output, place in zip(outputs, spec.outputs, strict=True):
            self._buffer(output, place.pitch, place.border)
        self._step(Step(name, spec, f"{name}.in", skips, outputs, ()), probe.params)

    def finish(self) -> Plan:
        """The plan, which must write some output image."""
        self._head(OUTPUT, _IMAGE_CHANNELS, 0)
        buffers = with_slots(self.buffers, self.steps)
        return Plan(self.isa, buffers, tuple(self.steps), self.params, 0, 1)

    def _buffer(self, name: str, channels: int, border: int) -> None:
        self.buffers[name] = Buffer(name, channels, border, 1, 1, None)

    def _head(self, name: str, channels: int, border: int) -> None:
        """A 1×1 convolution of the image that writes the buffer `name`."""
        self._buffer(name, channels, border)
        spec = ConvSpec((1, 1), 1, (0, 0), stored(_IMAGE_CHANNELS), 0, channels, (OutSpec(channels, border),))
        conv = _head_convolution(channels, border)
        form = kernels.plain(spec, self.isa, conv)
        self._step(Step(f"write.{name}", form, _IMAGE, (), (name,), ()), kernels.pack(form, self.isa, conv))

    def _step(self, step: Step, params: Mapping[str, np.ndarray]) -> None:
        names = tuple(f"{step.name}.{name}" for name in step.spec.param_names)
        self.params.update(zip(names, (params[name] for name in step.spec.param_names), strict=True))
        self.steps.append(Step(step.name, step.spec, step.input, step.skips, step.outputs, names))


def _head_convolution(channels: int, border: int) -> Convolution:
    weight = np.ones((channels, _IMAGE_CHANNELS, 1, 1), np.int8)
    m, bounds = np.full(channels, 1 / 3, np.float32), np.array([0, 0, 255], np.int32)
    pad = np.zeros(channels, np.uint8) if border else None
    zeros = np.zeros(channels, np.int32)
    return Convolution(weight, 1, zeros, zeros, [], [Requantization(m, m, bounds, pad)], (0, 255))
