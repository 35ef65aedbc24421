"""The network as an int8 .tflite file: per-channel symmetric weights, asymmetric int8 activations, int32 biases.

Activation ranges are the smallest and largest values on the calibration images, as in TensorFlow Lite's own converter;
an activation function is fused where its operand has no other reader, and joined values share one range.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.measure.peers.depth_last import depth_last
from qsearch.measure.peers.steps import IMAGE, Step, readers_of

Range = tuple[float, float]
VERSIONS = {"CONV_2D": 3, "RESHAPE": 1, "PRELU": 1}
"""Versions of the operators that take int8 tensors, where it is not 2."""


@dataclass(frozen=True)
class _Grid:
    """int8 lattice of one tensor."""

    scale: float
    zero_point: int

    @staticmethod
    def of(lo: float, hi: float) -> "_Grid":
        lo, hi = min(lo, 0.0), max(hi, 0.0)
        scale = float(np.float32((hi - lo) / 255)) or 1.0
        return _Grid(scale, int(np.clip(np.rint(-128 - lo / scale), -128, 127)))


def write_tflite(steps: Sequence[Step], ranges: Mapping[str, Range], white: float, size: tuple[int, int]) -> bytes:
    """A model from uint8 [1, H, W, 3] to uint8 [1, H·u, W·u, 3] for images of `size` = (height, width).

    `ranges` holds smallest and largest value of every step. Raises `QsearchError` for a step that has no int8 form.
    """
    return _Writer(steps, ranges, white, size).model()


class _Writer:
    def __init__(self, steps: Sequence[Step], ranges: Mapping[str, Range], white: float, size: tuple[int, int]) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema, self.white = schema, white
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [self._buffer(None)]
        self.operators: list[Any] = []
        self.codes: list[int] = []
        self.names: dict[str, int] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}
        self.versions: dict[int, int] = {}
        self.grids = _grids(steps, ranges, white)
        self.steps = depth_last(steps)
        self.size = size

    def model(self) -> bytes:
        import flatbuffers

        pixel = _Grid(float(np.float32(self.white / 255)), 0)
        image = self._tensor("image", (1, *self.size, 3), self.schema.TensorType.UINT8, pixel)
        self.names[IMAGE] = self._result(IMAGE, (1, *self.size, 3), self.grids[IMAGE])
        self._operator("QUANTIZE", [image], self.names[IMAGE], None)
        for step in self.steps:
            if step.result not in self.names:  # else it is fused
                self._step(step)
        last = self.names[self.steps[-1].result]
        result = self._tensor("upscaled", self.shapes[last], self.schema.TensorType.UINT8, pixel)
        self._operator("QUANTIZE", [last], result, None)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self._model(image, result).Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _model(self, image: int, result: int) -> Any:
        graph, model = self.schema.SubGraphT(), self.schema.ModelT()
        graph.tensors, graph.operators = self.tensors, self.operators
        graph.inputs, graph.outputs, graph.name = [image], [result], "main"
        model.version, model.description, model.subgraphs, model.buffers = 3, "qsearch", [graph], self.buffers
        model.operatorCodes = []
        for number in self.codes:
            code = self.schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
            code.version = self.versions[number]
            model.operatorCodes.append(code)
        return model

    def _step(self, step: Step) -> None:
        inputs = [self.names[name] for name in step.inputs]
        match step.kind:
            case "shift":
                grid = _Grid.of(float(step["value"].min()), float(step["value"].max()))
                constant = self._constant(step["value"].reshape(1, 1, 1, -1), grid)
                self._finish(step, "SUB", [*inputs, constant], self.shapes[inputs[0]], "SubOptions")
            case "conv":
                self._convolution(step, inputs[0])
            case "add":
                self._finish(step, "ADD", inputs, self.shapes[inputs[0]], "AddOptions")
            case "relu":
                self._finish(step, "RELU", inputs, self.shapes[inputs[0]])
            case "prelu":
                slope = step["slope"]
                if slope.numel() > 1 and bool((slope != slope[0]).any()):
                    grid = _Grid.of(float(slope.min()), float(slope.max()))
                    self._finish(
                        step, "PRELU", [*inputs, self._constant(slope.reshape(1, 1, -1), grid)], self.shapes[inputs[0]]
                    )
                else:
                    self._finish(step, "LEAKY_RELU", inputs, self.shapes[inputs[0]], "LeakyReluOptions",
                                 alpha=float(slope.flatten()[0]))  # fmt: skip
            case "shuffle":
                self._shuffle(step, inputs[0])
            case "repeat":
                self._repeat(step, inputs[0])
            case "concat":
                channels = sum(self.shapes[i][3] for i in inputs)
                self._finish(step, "CONCATENATION", inputs, (*self.shapes[inputs[0]][:3], channels),
                             "ConcatenationOptions", axis=3)  # fmt: skip
            case _:
                raise QsearchError(f"LiteRT: {step.kind} without an operator before it has no int8 form")

    def _convolution(self, step: Step, source: int) -> None:
        weight, (rows, columns) = step["weight"], step["padding"]
        kernel = tuple(weight.shape[2:])
        if step["stride"] == 1 and kernel == (2 * rows + 1, 2 * columns + 1):
            padding = self.schema.Padding.SAME
        elif (rows, columns) == (0, 0):
            padding = self.schema.Padding.VALID
        else:
            raise QsearchError(f"LiteRT: a {kernel} convolution with padding {(rows, columns)} has no form")
        scale = (weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / 127).float()
        values = torch.round(weight / scale.view(-1, 1, 1, 1)).clamp(-127, 127).to(torch.int8)
        unit = scale.double() * self._grid_of(source).scale
        bias = torch.round(step["bias"].double() / unit).clamp(-(2**31) + 1, 2**31 - 1).to(torch.int32)
        weights = self._tensor("weight", (len(weight), *kernel, weight.shape[1]), self.schema.TensorType.INT8,
                               None, values.permute(0, 2, 3, 1).contiguous().numpy(), scale)  # fmt: skip
        biases = self._tensor("bias", (len(bias),), self.schema.TensorType.INT32, None, bias.numpy(), unit.float())
        _, height, width, _ = self.shapes[source]
        sides = zip((height, width), step["padding"], kernel, strict=True)
        shape = (1, *((side + 2 * pad - k) // step["stride"] + 1 for side, pad, k in sides), len(weight))
        self._finish(step, "CONV_2D", [source, weights, biases], shape, "Conv2DOptions", padding=padding,
                     strideH=step["stride"], strideW=step["stride"])  # fmt: skip

    def _shuffle(self, step: Step, source: int) -> None:
        """DEPTH_TO_SPACE takes the sub-pixels first, PyTorch the channels.

        Where `depth_last` could not change that, the channels are transposed before it.
        """
        r = step["r"]
        _, height, width, depth = self.shapes[source]
        channels, grid = depth // r**2, self._grid_of(source)
        parts = (height * width, channels, r**2)
        ordered = source if step["depth_last"] else self._reordered(source, parts, grid, step.result)
        result = self._result(step.result, (1, height * r, width * r, channels), grid)
        self._operator("DEPTH_TO_SPACE", [ordered], result, "DepthToSpaceOptions", blockSize=r)
        self.names[step.result] = result

    def _reordered(self, source: int, parts: tuple[int, int, int], grid: _Grid, name: str) -> int:
        pixels, channels, area = parts
        shape = self.shapes[source]
        split = self._result(f"{name}_split", (1, pixels, channels, area), grid)
        self._reshape(source, split)
        turned = self._result(f"{name}_turned", (1, pixels, area, channels), grid)
        order = self._tensor("order", (4,), self.schema.TensorType.INT32, None, np.array([0, 1, 3, 2], np.int32))
        self._operator("TRANSPOSE", [split, order], turned, "TransposeOptions")
        result = self._result(f"{name}_ordered", shape, grid)
        self._reshape(turned, result)
        return result

    def _reshape(self, source: int, result: int) -> None:
        shape = np.array(self.shapes[result], np.int32)
        constant = self._tensor("shape", shape.shape, self.schema.TensorType.INT32, None, shape)
        self._operator("RESHAPE", [source, constant], result, "ReshapeOptions", newShape=shape.tolist())

    def _repeat(self, step: Step, source: int) -> None:
        """Every channel n times in a row: the tensor n times, then its channels in the other order."""
        n, grid = step["n"], self._grid_of(source)
        _, height, width, channels = self.shapes[source]
        tiled = self._result(f"{step.result}_tiled", (1, height, width, channels * n), grid)
        self._operator("CONCATENATION", [source] * n, tiled, "ConcatenationOptions", axis=3)
        self.names[step.result] = (
            tiled if step["depth_last"] else self._reordered(tiled, (height * width, n, channels), grid, step.result)
        )

    def _finish(
        self, step: Step, operator: str, inputs: list[int], shape: tuple[int, ...], options: str | None = None,
        **values: Any,
    ) -> None:  # fmt: skip
        """The operator of `step`, with the ReLU or clip that alone reads it."""
        after = fused_after(self.steps, step)
        last = after or step
        result = self._result(last.result, shape, self.grids[last.result])
        if options and hasattr(getattr(self.schema, f"{options}T")(), "fusedActivationFunction"):
            kinds = self.schema.ActivationFunctionType
            values["fusedActivationFunction"] = kinds.RELU if last.kind == "relu" and after else kinds.NONE
        self._operator(operator, inputs, result, options, **values)
        self.names[step.result] = self.names[last.result] = result

    def _operator(self, name: str, inputs: list[int], result: int, options: str | None, **values: Any) -> None:
        number = getattr(self.schema.BuiltinOperator, name)
        if number not in self.codes:
            self.codes.append(number)
            self.versions[number] = VERSIONS.get(name, 2)
        operator = self.schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self.codes.index(number), inputs, [result]
        if options:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(self.schema, f"{options}T")()
            for key, value in values.items():
                setattr(operator.builtinOptions, key, value)
            if options == "Conv2DOptions":
                operator.builtinOptions.dilationHFactor = operator.builtinOptions.dilationWFactor = 1
        self.operators.append(operator)

    def _grid_of(self, index: int) -> _Grid:
        found = self.tensors[index].quantization
        return _Grid(found.scale[0], found.zeroPoint[0])

    def _result(self, name: str, shape: tuple[int, ...], grid: _Grid) -> int:
        return self._tensor(name, shape, self.schema.TensorType.INT8, grid)

    def _constant(self, value: torch.Tensor, grid: _Grid) -> int:
        q = torch.round(value / grid.scale).add(grid.zero_point).clamp(-128, 127).to(torch.int8)
        return self._tensor("constant", tuple(q.shape), self.schema.TensorType.INT8, grid, q.contiguous().numpy())

    def _tensor(
        self, name: str, shape: tuple[int, ...], kind: int, grid: _Grid | None,
        value: NDArray[Any] | None = None, channel_scales: torch.Tensor | None = None,
    ) -> int:  # fmt: skip
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape, tensor.type = f"{name}_{len(self.tensors)}", list(shape), kind
        if grid is not None or channel_scales is not None:
            scales = [grid.scale] if grid is not None else channel_scales.tolist()  # type: ignore[union-attr]
            quantization = self.schema.QuantizationParametersT()
            quantization.scale, quantization.quantizedDimension = scales, 0
            quantization.zeroPoint = [0 if grid is None else grid.zero_point] * len(scales)
            tensor.quantization = quantization
        if value is not None:
            tensor.buffer = len(self.buffers)
            self.buffers.append(self._buffer(value))
        self.tensors.append(tensor)
        self.shapes[len(self.tensors) - 1] = tuple(shape)
        return len(self.tensors) - 1

    def _buffer(self, value: NDArray[Any] | None) -> Any:
        buffer = self.schema.BufferT()
        if value is not None:
            buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
        return buffer


def fused_after(steps: Sequence[Step], step: Step) -> Step | None:
    """The ReLU or clip that alone reads the result of a convolution or a sum; int8 saturation does the clip."""
    readers = readers_of(steps, step.result)
    if step.kind in ("conv", "add") and len(readers) == 1 and readers[0].kind in ("relu", "clip"):
        return readers[0]
    return None


def _grids(steps: Sequence[Step], ranges: Mapping[str, Range], white: float) -> dict[str, _Grid]:
    """The grid of every value; joined values take one that covers them all, a shuffled one that of its source."""
    same = {name: name for name in ranges}

    def root(name: str) -> str:
        while same[name] != name:
            name = same[name]
        return name

    for step in steps:
        if step.kind in ("concat", "shuffle", "repeat"):
            for name in step.inputs:
                same[root(name)] = root(step.result)
    covering: dict[str, Range] = {}
    for name, (lo, hi) in {**ranges, IMAGE: (0.0, white)}.items():
        old = covering.get(root(name), (lo, hi))
        covering[root(name)] = min(lo, old[0]), max(hi, old[1])
    return {name: _Grid.of(*covering[root(name)]) for name in ranges}
