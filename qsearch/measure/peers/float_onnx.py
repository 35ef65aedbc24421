"""The float network as ONNX, from uint8 image to uint8 image: what ONNX Runtime and OpenVINO quantize."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from qsearch.measure.peers.steps import IMAGE, Step

OPSET = 21


def float_onnx(steps: Sequence[Step], white: float, size: tuple[int, int] | None = None) -> onnx.ModelProto:
    """ONNX of `steps`: input `image` uint8 [H, W, 3], output `upscaled` uint8 [H·u, W·u, 3]; dynamic without `size`."""
    return _Writer().model(steps, white, size)


class _Writer:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def model(self, steps: Sequence[Step], white: float, size: tuple[int, int] | None) -> onnx.ModelProto:
        names = {IMAGE: self._begin(white)}
        for step in steps:
            names[step.result] = self._step(step, [names[name] for name in step.inputs])
        self._end(names[steps[-1].result], white)
        shape = [*(size or ("H", "W")), 3]
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, shape)
        result = helper.make_tensor_value_info("upscaled", TensorProto.UINT8, ["H_out", "W_out", 3])
        graph = helper.make_graph(self.nodes, "float", [image], [result], self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    def _begin(self, white: float) -> str:
        value = self._emit("Transpose", ["image"], perm=[2, 0, 1])
        value = self._emit("Unsqueeze", [value, self._constant(np.array([0]))])
        value = self._emit("Cast", [value], to=TensorProto.FLOAT)
        return value if white == 255 else self._emit("Mul", [value, self._constant(np.float32(white / 255))])

    def _end(self, value: str, white: float) -> None:
        if white != 255:
            value = self._emit("Mul", [value, self._constant(np.float32(255 / white))])
        value = self._emit("Clip", [value, self._constant(np.float32(0)), self._constant(np.float32(255))])
        value = self._emit("Cast", [self._emit("Round", [value])], to=TensorProto.UINT8)
        value = self._emit("Squeeze", [value, self._constant(np.array([0]))])
        self.nodes.append(helper.make_node("Transpose", [value], ["upscaled"], perm=[1, 2, 0]))

    def _step(self, step: Step, inputs: list[str]) -> str:
        match step.kind:
            case "shift":
                return self._emit("Sub", [*inputs, self._tensor(step["value"].view(1, -1, 1, 1))])
            case "conv":
                weights = [self._tensor(step["weight"]), self._tensor(step["bias"])]
                return self._emit("Conv", [*inputs, *weights], pads=[*step["padding"], *step["padding"]],
                                  group=step["groups"], strides=[step["stride"]] * 2)  # fmt: skip
            case "add":
                return self._emit("Add", inputs)
            case "relu":
                return self._emit("Relu", inputs)
            case "prelu":
                slope = step["slope"]
                if bool((slope == slope[0]).all()):
                    return self._emit("LeakyRelu", inputs, alpha=float(slope[0]))
                return self._emit("PRelu", [*inputs, self._tensor(slope.view(-1, 1, 1))])
            case "clip":
                ends = ["" if end is None else self._constant(np.float32(end)) for end in (step["lo"], step["hi"])]
                return self._emit("Clip", [*inputs, *ends])
            case "shuffle":
                return self._emit("DepthToSpace", inputs, mode="CRD", blocksize=step["r"])
            case "repeat":
                return self._emit("Gather", [*inputs, self._constant(np.repeat(np.arange(3), step["n"]))], axis=1)
            case "concat":
                return self._emit("Concat", inputs, axis=1)

    def _emit(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _tensor(self, value: Tensor) -> str:
        return self._constant(value.detach().numpy())

    def _constant(self, value: Any) -> str:
        name = f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name
