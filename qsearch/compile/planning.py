"""Plans buffers, borders, arena slots and kernel calls of an integer program."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from torch.fx import GraphModule, Node

from qsearch.compile import kernels, packing
from qsearch.compile.fusion import IMAGE_CHANNELS, Call, Fused, FusedOutput, Program, is_call, readers
from qsearch.compile.plan import INPUT, OUTPUT, Buffer, Feature, Plan, Step
from qsearch.compile.specs import ConvSpec, ImageSpec, OutSpec, SkipSpec, stored
from qsearch.errors import QsearchError
from qsearch.integer import ops
from qsearch.integer.storage import BOUNDS

IMAGE = "image"


@dataclass(frozen=True)
class _Use:
    """How the readers of a value want it stored."""

    border: int
    pad: np.ndarray | None


@dataclass(frozen=True)
class _Place:
    """Where one output of a convolution is stored: a buffer, and its channels there."""

    buffer: Buffer
    pad: np.ndarray | None
    requantize: Call
    spec: OutSpec


class Planner:
    """Builds the plan of one program; use `plan`."""

    def __init__(self, module: GraphModule, isa: str, choose: kernels.Choose) -> None:
        self.program, self.isa, self.choose = Program(module), isa, choose
        self.values: dict[str, tuple[int, int]] = {}
        self.buffers: dict[str, Buffer] = {}
        self.steps: list[Step] = []
        self.params: dict[str, np.ndarray] = {}
        self.features: list[Feature] = []
        self.outputs = {value: OUTPUT if not i else f"{OUTPUT}{i}" for i, value in enumerate(self.program.results)}

    def plan(self, shrinks: bool = False) -> Plan:
        """The plan of the program; with `shrinks` of one whose output may be smaller than the image."""
        if self.program.image is not None:
            self._load_image(self.program.image)
        for node in self.program.features:
            self._take_feature(node)
        for fused in self.program.fused():
            self._add(fused)
        for value, name in self.outputs.items():
            if name not in self.buffers:
                raise QsearchError(f"node '{value.name}': the program must return a requantized convolution")
        scale = Fraction(self.buffers[OUTPUT].scale_num, self.buffers[OUTPUT].scale_den)
        if scale.denominator != 1 and not shrinks:
            raise QsearchError(f"node '{self.program.results[0].name}': the output is smaller than the input image")
        features, outputs = tuple(self.features), tuple(self.outputs[value] for value in self.program.results)
        given = {INPUT, *(feature.buffer for feature in features), *outputs}
        buffers, halo = with_slots(self.buffers, self.steps, given), _halo(self.steps, given - set(outputs))
        plan = Plan(
            self.isa, buffers, tuple(self.steps), self.params, halo, int(scale), features, outputs, self.program.levels
        )
        plan.sizes(64, 64)
        return plan

    def _load_image(self, node: Node) -> None:
        use = self._use(node, IMAGE_CHANNELS)
        spec = ImageSpec(IMAGE_CHANNELS, use.border)
        self.buffers[INPUT] = Buffer(INPUT, IMAGE_CHANNELS, 0, 1, 1, None)
        self.buffers[IMAGE] = Buffer(IMAGE, stored(IMAGE_CHANNELS), use.border, 1, 1, None)
        self._note_values(IMAGE, (0, 255), use.pad)
        params = {"pad": use.pad} if use.pad is not None else {}
        self._add_step(Step(IMAGE, spec, INPUT, (), (IMAGE,), ()), params)

    def _take_feature(self, node: Node) -> None:
        """A place for an input that is a feature: for its own readers and in concatenations."""
        channels, bounds = self.program.channels(node), node.meta.get(BOUNDS, (0, 255))
        wanted = readers(node)
        if any(is_call(reader, ops.pixel_shuffle) for reader in wanted):
            raise QsearchError(f"node '{node.name}': kernels cannot shuffle the pixels of an input")
        if any(not is_call(reader, ops.concat) for reader in wanted):
            use = self._use(node, channels)
            buffer = Buffer(node.name, stored(channels), use.border, 1, 1, None)
            self.buffers[node.name] = buffer
            self._note_feature(node, buffer, 0, use.pad, bounds)
        for concat, first in self.program.places(node):
            buffer, pad = self._joined_buffer(concat, Fraction(1))
            count = self._part(concat, first, channels, buffer)
            self._note_feature(node, buffer, first, None if pad is None else pad[first : first + count], bounds, count)

    def _note_feature(
        self,
        node: Node,
        buffer: Buffer,
        first: int,
        pad: np.ndarray | None,
        bounds: tuple[int, int],
        count: int | None = None,
    ) -> None:
        fill = [bounds[0]] * (count or buffer.channels) if pad is None else pad.tolist()
        self.features.append(Feature(node.name, buffer.name, first, self.program.channels(node), tuple(fill)))
        self._note_values(buffer.name, bounds, pad)

    def _part(self, concat: Node, first: int, channels: int, buffer: Buffer) -> int:
        """Channels of a joined buffer that a part of `channels` from `first` on has to fill."""
        # The last part also fills what rounding the channels up has added.
        return channels if first + channels < self.program.channels(concat) else buffer.channels - first

    def _note_values(self, name: str, bounds: tuple[int, ...], pad: np.ndarray | None) -> None:
        found = [*bounds, *([] if pad is None else pad), *self.values.get(name, ())]
        self.values[name] = int(min(found)), int(max(found))

    def _add_step(self, step: Step, params: dict[str, np.ndarray]) -> None:
        names = tuple(f"{step.name}.{name}" for name in step.spec.param_names)
        self.params.update(zip(names, (params[name] for name in step.spec.param_names), strict=True))
        self.steps.append(replace(step, params=names))

    def _add(self, fused: Fused) -> None:
        conv = fused.conv
        array = self.program.array
        weight = array(conv["weight"])
        source = self._stored_buffer(conv["q"], conv.node)
        channels = weight.shape[0] // fused.shuffle**2
        if weight.shape[0] % fused.shuffle**2:
            raise QsearchError(f"node '{fused.name}': {weight.shape[0]} channels cannot be shuffled by {fused.shuffle}")
        outputs = [entry for output in fused.outputs for entry in self._outputs(output, channels, source, fused)]
        skips = [self._skip(skip) for skip in fused.skips]
        prelu = any(place.requantize["prelu"] for place in outputs)
        spec = ConvSpec(
            kernel=(weight.shape[2], weight.shape[3]),
            stride=int(conv["stride"]),
            padding=(int(conv["padding"][0]), int(conv["padding"][1])),
            in_channels=source.channels,
            in_border=source.border,
            out_channels=weight.shape[0],
            outputs=tuple(place.spec for place in outputs),
            skips=tuple(skip for _, skip in skips),
            prelu=prelu,
            shuffle=fused.shuffle,
        )
        convolution = packing.Convolution(
            weight=weight,
            groups=int(conv["groups"]),
            bias=array(conv["bias"]),
            shift=array(conv["shift"]),
            skip_factors=[array(skip["k"]) for skip in fused.skips],
            outputs=[self._requantization(place) for place in outputs],
            values=self.values[source.name],
        )
        spec = self.choose(spec, self.isa, convolution)
        for place in outputs:
            self._note_values(place.buffer.name, tuple(array(place.requantize["bounds"])[1:3]), place.pad)
        names = tuple(place.buffer.name for place in outputs)
        step = Step(fused.name, spec, source.name, tuple(name for name, _ in skips), names, (), fused.level)
        self._add_step(step, kernels.pack(spec, self.isa, convolution))

    def _outputs(self, output: FusedOutput, channels: int, source: Buffer, fused: Fused) -> Iterable[_Place]:
        """Where one output is stored: for its own readers, in concatenations, and for the caller."""
        scale = Fraction(source.scale_num, source.scale_den) * fused.shuffle / int(fused.conv["stride"])
        name, requantize = output.value.name, output.requantize
        piecewise = len(self.program.array(requantize["bounds"])) == 6
        wanted = [reader for reader in readers(output.value) if reader.op != "output"]
        if any(not is_call(reader, ops.pixel_shuffle, ops.concat) for reader in wanted):
            use = self._use(output.value, channels)
            buffer = Buffer(name, stored(channels), use.border, scale.numerator, scale.denominator, None)
            self.buffers[name] = buffer
            yield _Place(buffer, use.pad, requantize, OutSpec(buffer.channels, use.border, piecewise))
        for concat, first in self.program.places(output.value):
            buffer, pad = self._joined_buffer(concat, scale)
            count = self._part(concat, first, channels, buffer)
            part = None if pad is None else pad[first : first + count]
            yield _Place(buffer, part, requantize, OutSpec(count, buffer.border, piecewise, first, buffer.channels))
        if output.value in self.outputs:
            buffer = Buffer(self.outputs[output.value], channels, 0, scale.numerator, scale.denominator, None)
            self.buffers[buffer.name] = buffer
            yield _Place(buffer, None, requantize, OutSpec(channels, 0, piecewise))

    def _joined_buffer(self, concat: Node, scale: Fraction) -> tuple[Buffer, np.ndarray | None]:
        """The buffer that several convolutions write, each its own channels, and the values of its border."""
        for operand in self.program.call(concat)["tensors"]:
            joinable = operand in self.program.features or is_call(
                operand, ops.requantize, ops.by_level, ops.pixel_shuffle, ops.concat
            )
            if not joinable:
                raise QsearchError(f"node '{concat.name}': kernels cannot join '{operand.name}' with others")
        channels = self.program.channels(concat)
        use = self._use(concat, channels)
        buffer = Buffer(concat.name, stored(channels), use.border, scale.numerator, scale.denominator, None)
        if self.buffers.setdefault(concat.name, buffer) != buffer:
            raise QsearchError(f"node '{concat.name}': joins values of different sizes")
        return buffer, use.pad

    def _use(self, node: Node, channels: int) -> _Use:
        """The border that the convolutions reading `node` need, and its values."""
        border, pad = 0, None
        for reader in readers(node):
            if not is_call(reader, ops.conv_acc):
                continue
            call = self.program.call(reader)
            rows, columns = call["padding"]
            if max(rows, columns) == 0:
                continue
            given = self.program.array(call["pad"])
            # Channels that only fill up a quad repeat another, so that they do not widen the range of the values.
            values = np.append(given, np.full(stored(channels) - channels, given[0], np.uint8))
            if pad is not None and not np.array_equal(pad, values):
                raise QsearchError(f"node '{reader.name}': pads '{node.name}' with other values than another reader")
            border, pad = max(border, int(rows), int(columns)), values
        return _Use(border, pad)

    def _stored_buffer(self, value: Node, reader: Node) -> Buffer:
        name = IMAGE if value is self.program.image else value.name
        if name not in self.buffers:
            raise QsearchError(f"node '{reader.name}': kernels cannot read the result of '{value.name}'")
        return self.buffers[name]

    def _skip(self, skip: Call) -> tuple[str, SkipSpec]:
        value, repeat = skip["q_skip"], 1
        if is_call(value, ops.repeat_channels):
            call = self.program.call(value)
            value, repeat = call["q"], int(call["n"])
        buffer = self._stored_buffer(value, skip.node)
        return buffer.name, SkipSpec(buffer.channels, buffer.border, repeat)

    def _requantization(self, place: _Place) -> packing.Requantization:
        requantize = place.requantize
        m, m_neg, bounds = (self.program.array(requantize[name]) for name in ("m", "m_neg", "bounds"))
        return packing.Requantization(m, m_neg if requantize["prelu"] else m, bounds, place.pad)


def _halo(steps: list[Step], inputs: set[str]) -> int:
    """Pixels of any input around a region that its outputs depend on, from the last step back to the first."""
    needed: dict[str, int] = {}
    for step in reversed(steps):
        spec = step.spec
        radius = max(needed.get(output, 0) for output in step.outputs)
        if isinstance(spec, ConvSpec):
            radius = -(-radius // spec.shuffle)
            for skip in step.skips:
                needed[skip] = max(needed.get(skip, 0), radius)
            reach = max(max(p, k - 1 - p) for k, p in zip(spec.kernel, spec.padding, strict=True))
            radius = radius * spec.stride + reach
        needed[step.input] = max(needed.get(step.input, 0), radius)
    return max(needed.get(name, 0) for name in inputs)


def with_slots(
    buffers: dict[str, Buffer], steps: list[Step], given: Collection[str] = (INPUT, OUTPUT)
) -> dict[str, Buffer]:
    """Gives every buffer but the caller's, which are `given`, an arena slot that none alive at the same time has."""
    last_use = {name: index for index, step in enumerate(steps) for name in (*step.outputs, step.input, *step.skips)}
    weight = {b.name: Fraction(b.scale_num, b.scale_den) ** 2 * b.channels for b in buffers.values()}
    slots: list[Fraction] = []
    free: list[int] = []
    planned = dict(buffers)
    for index, step in enumerate(steps):
        for name in (name for name in dict.fromkeys(step.outputs) if name not in given and planned[name].slot is None):
            if free:
                # The slot whose size fits best: too large wastes nothing, too small grows.
                slot = min(free, key=lambda s: (slots[s] < weight[name], abs(slots[s] - weight[name])))
                free.remove(slot)
                slots[slot] = max(slots[slot], weight[name])
            else:
                slot = len(slots)
                slots.append(weight[name])
            planned[name] = replace(buffers[name], slot=slot)
        for name in {step.input, *step.skips, *step.outputs}.difference(given):
            if last_use[name] == index:
                free.append(planned[name].slot)  # type: ignore[arg-type]
        free.sort()
    return planned
