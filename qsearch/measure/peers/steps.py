"""A prepared float graph as a plain list of operators, from which every peer's model is written."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from qsearch.errors import QsearchError
from qsearch.passes.operators import Concat, FusedConv, RepeatChannels
from qsearch.passes.rewrite import module_of

IMAGE = "image"
Kind = Literal["shift", "conv", "add", "relu", "prelu", "clip", "shuffle", "repeat", "concat"]


@dataclass(frozen=True)
class Step:
    """One float operator: `result = kind(inputs)` on tensors [N, C, H, W].

    Attributes: shift `value` [C] (subtracted); conv `weight`, `bias`, `stride`, `padding`, `groups`; prelu `slope` [C];
    clip `lo`, `hi` (None: open); shuffle `r`; repeat `n`.
    """

    kind: Kind
    result: str
    inputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.attributes[name]


def steps_of(graph: GraphModule) -> list[Step]:
    """The operators of a prepared graph in order; the last one's result is the image out, in 0…white, not clipped.

    Raises `QsearchError` for a graph whose channels are equalized.
    """
    writer = _Writer()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            writer.names[node] = IMAGE
        elif node.op == "call_module":
            writer.add(node, module_of(graph, node))
    return writer.steps


class _Writer:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.names: dict[Node, str] = {}

    def add(self, node: Node, module: nn.Module | None) -> None:
        inputs = [self.names[argument] for argument in node.all_input_nodes]
        if isinstance(module, FusedConv):
            self.names[node] = self._convolution(module, [self.names[a] for a in node.args])  # type: ignore[index]
        elif isinstance(module, nn.PixelShuffle):
            self.names[node] = self._emit("shuffle", *inputs, r=module.upscale_factor)
        elif isinstance(module, RepeatChannels):
            self.names[node] = self._emit("repeat", *inputs, n=module.n)
        elif isinstance(module, Concat):
            self.names[node] = self._emit("concat", *(self.names[a] for a in node.args))  # type: ignore[index]
        else:
            self.names[node] = inputs[0]  # a quantizer without a grid

    def _convolution(self, conv: FusedConv, inputs: list[str]) -> str:
        source, bias = inputs[0], conv.bias.detach()
        if bool(conv.pad_value.any()):
            # conv(x) padded with p is conv(x − p) padded with zeros, and a bias for the constant p.
            source = self._emit("shift", source, value=conv.pad_value)
            constant = conv.pad_value.view(1, -1, 1, 1).expand(1, -1, *conv.weight.shape[2:])
            bias = bias + F.conv2d(constant, conv.weight, groups=conv.groups).flatten()
        value = self._emit("conv", source, weight=conv.weight.detach(), bias=bias, stride=conv.stride,
                           padding=conv.padding, groups=conv.groups)  # fmt: skip
        for skip, gain in zip(inputs[1:], conv.skip_gains, strict=True):
            if bool((gain != 1).any()):
                raise QsearchError("peers take the network before its channels are equalized")
            value = self._emit("add", value, skip)
        if conv.activation == "relu":
            return self._emit("relu", value)
        if conv.activation == "prelu":
            return self._emit("prelu", value, slope=conv.slope)
        if conv.activation == "clip":
            return self._emit("clip", value, lo=conv.clip[0], hi=conv.clip[1])
        return value

    def _emit(self, kind: Kind, *inputs: str, **attributes: Any) -> str:
        result = f"{kind}_{len(self.steps)}"
        self.steps.append(Step(kind, result, inputs, attributes))
        return result


def readers_of(steps: Sequence[Step], value: str) -> list[Step]:
    """The steps that read `value`."""
    return [step for step in steps if value in step.inputs]


def ranges(steps: Sequence[Step], images: Sequence[Tensor]) -> dict[str, tuple[float, float]]:
    """Smallest and largest element of every value over float `images` [1, 3, H, W]."""
    found: dict[str, tuple[float, float]] = {}
    for image in images:
        for name, value in _evaluate(steps, image).items():
            lo, hi = found.get(name, (float("inf"), float("-inf")))
            found[name] = min(lo, float(value.min())), max(hi, float(value.max()))
    return found


def _evaluate(steps: Sequence[Step], image: Tensor) -> dict[str, Tensor]:
    values = {IMAGE: image}
    with torch.inference_mode():
        for step in steps:
            values[step.result] = _compute(step, [values[name] for name in step.inputs])
    return values


def _compute(step: Step, inputs: list[Tensor]) -> Tensor:
    x = inputs[0]
    match step.kind:
        case "shift":
            return x - step["value"].view(1, -1, 1, 1)
        case "conv":
            return F.conv2d(x, step["weight"], step["bias"], step["stride"], step["padding"], 1, step["groups"])
        case "add":
            return x + inputs[1]
        case "relu":
            return F.relu(x)
        case "prelu":
            return F.prelu(x, step["slope"])
        case "clip":
            return x.clamp(step["lo"], step["hi"])
        case "shuffle":
            return F.pixel_shuffle(x, step["r"])
        case "repeat":
            return x.repeat_interleave(step["n"], dim=1)
        case "concat":
            return torch.cat(inputs, dim=1)


def replaced(step: Step, **attributes: Any) -> Step:
    """`step` with other attributes."""
    return replace(step, attributes={**step.attributes, **attributes})
