"""ONNX export of an integer program, in two forms.

`qdq`: QuantizeLinear/DequantizeLinear around float operators, the exchange format that every runtime optimizes; a
convolution without skip operands and without shift gives the same bytes in ONNX Runtime, a skip is added in float.
`exact`: ConvInteger and int32 arithmetic, which expresses every operation and gives the same bytes everywhere.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch.fx import GraphModule, Node

from qsearch.errors import QsearchError
from qsearch.files import write_atomic
from qsearch.integer import ops

OPSET = 21
Form = Literal["qdq", "exact"]


def export_onnx(program: GraphModule, form: Form = "qdq") -> onnx.ModelProto:
    """The program as ONNX: input `image` uint8 [N, 3, H, W], output `upscaled` uint8 [N, 3, H·u, W·u], dynamic sizes.

    Raises `QsearchError` naming the operation that ONNX cannot express.
    """
    writer = _Exact(program) if form == "exact" else _Qdq(program)
    model = writer.model()
    onnx.checker.check_model(model)
    return model


def save_onnx(program: GraphModule, path: Path | str, form: Form = "qdq") -> None:
    """Write the ONNX model to `path`, atomically."""
    write_atomic(path, export_onnx(program, form).SerializeToString())


class _Writer:
    """Walks the program; subclasses write the arithmetic."""

    def __init__(self, program: GraphModule) -> None:
        self.program = program
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.names: dict[Node, str] = {}
        self.count = 0

    def model(self) -> onnx.ModelProto:
        shape = ["N", 3, "H", "W"]
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self.names[node] = "image"
                self.image(node)
            elif node.op == "call_function":
                self._operation(node)
            elif node.op == "output":
                self.nodes.append(helper.make_node("Identity", [self.names[node.args[0]]], ["upscaled"]))
        graph = helper.make_graph(
            self.nodes,
            "qsearch",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
            [helper.make_tensor_value_info("upscaled", TensorProto.UINT8, ["N", 3, "H_out", "W_out"])],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    def _operation(self, node: Node) -> None:
        writers: dict[Any, Callable[[Node], str]] = {
            ops.conv_acc: self.conv_acc,
            ops.add_skip: self.add_skip,
            ops.requantize: self.requantize,
            ops.pixel_shuffle: self.pixel_shuffle,
            ops.repeat_channels: self.repeat_channels,
            ops.concat: self.concat,
        }
        write = writers.get(node.target)
        if write is None:
            raise QsearchError(f"operation {node.name!r} has no ONNX form")
        self.names[node] = write(node)

    def image(self, node: Node) -> None:
        """Prepare the placeholder."""

    def conv_acc(self, node: Node) -> str:
        raise NotImplementedError

    def add_skip(self, node: Node) -> str:
        raise NotImplementedError

    def requantize(self, node: Node) -> str:
        raise NotImplementedError

    def pixel_shuffle(self, node: Node) -> str:
        return self.emit("DepthToSpace", [self.names[node.args[0]]], mode="CRD", blocksize=node.args[1])  # type: ignore[index]

    def repeat_channels(self, node: Node) -> str:
        source, n = node.args
        channels = _channels(self.program, source)  # type: ignore[arg-type]
        index = self.constant(np.repeat(np.arange(channels, dtype=np.int64), n))  # type: ignore[arg-type]
        return self.emit("Gather", [self.names[source], index], axis=1)  # type: ignore[index]

    def concat(self, node: Node) -> str:
        return self.emit("Concat", [self.names[part] for part in node.args[0]], axis=1)  # type: ignore[union-attr, index]

    def snap(self, q: str, bounds: Any) -> str:
        """The values of a piecewise quantizer, looked up; `q` itself for a uniform one."""
        pieces = self.parameter(bounds)[3:]
        if len(pieces) == 0:
            return q
        table = ops.snap(torch.arange(256, dtype=torch.int32), torch.from_numpy(pieces)).clamp(0, 255)
        index = self.emit("Cast", [q], to=TensorProto.INT32)
        return self.emit("Gather", [self.constant(table.numpy().astype(np.uint8)), index])

    def pad(self, q: str, pad: NDArray[np.uint8], padding: Any) -> str:
        if not any(padding):
            return q
        rows, columns = padding
        pads = self.constant(np.array([0, 0, rows, columns, 0, 0, rows, columns], dtype=np.int64))
        if (pad == pad[0]).all():
            return self.emit("Pad", [q, pads, self.constant(pad[0])])
        inside = self.emit("Sub", [self.emit("Cast", [q], to=TensorProto.INT32),
                                   self.constant(_per_channel(pad).astype(np.int32))])  # fmt: skip
        padded = self.emit("Pad", [inside, pads, self.constant(np.int32(0))])
        back = self.emit("Add", [padded, self.constant(_per_channel(pad).astype(np.int32))])
        return self.emit("Cast", [back], to=TensorProto.UINT8)

    def emit(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """A node; the name of its output."""
        self.count += 1
        name = f"{operator.lower()}_{self.count}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: NDArray[Any] | np.generic) -> str:
        """An initializer; its name."""
        self.count += 1
        name = f"c{self.count}"
        self.initializers.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def parameter(self, node: Any) -> NDArray[Any]:
        """The value of a parameter node."""
        value: NDArray[Any] = self.program.get_buffer(str(node.target)).numpy()
        return value


def _channels(program: GraphModule, node: Node) -> int:
    if node.op == "placeholder":
        return 3
    if node.target is ops.conv_acc:
        return int(program.get_buffer(str(node.args[1].target)).shape[0])  # type: ignore[union-attr]
    if node.target is ops.concat:
        return sum(_channels(program, part) for part in node.args[0])  # type: ignore[union-attr, arg-type, misc]
    inner = _channels(program, node.args[0])  # type: ignore[arg-type]
    if node.target is ops.pixel_shuffle:
        return inner // int(node.args[1]) ** 2  # type: ignore[arg-type]
    return inner * int(node.args[1]) if node.target is ops.repeat_channels else inner  # type: ignore[arg-type]


def _per_channel(value: NDArray[Any]) -> NDArray[Any]:
    return value.reshape(1, -1, 1, 1)


class _Exact(_Writer):
    """int32 accumulators, one float multiplication, round half to even: the contract itself."""

    def conv_acc(self, node: Node) -> str:
        q, weight, bias, shift, pad = node.args
        padded = self.pad(self.names[q], self.parameter(pad), node.kwargs["padding"])  # type: ignore[index]
        inputs = [padded, self.constant(self.parameter(weight)), self.constant(np.uint8(0))]
        stride = node.kwargs["stride"]
        sums = self.emit("ConvInteger", inputs, strides=[stride, stride], group=node.kwargs["groups"])
        factor = _per_channel(1 << self.parameter(shift))
        if (factor != 1).any():
            sums = self.emit("Mul", [sums, self.constant(factor.astype(np.int32))])
        return self.emit("Add", [sums, self.constant(_per_channel(self.parameter(bias)))])

    def add_skip(self, node: Node) -> str:
        acc, q, k = node.args
        wide = self.emit("Cast", [self.names[q]], to=TensorProto.INT32)  # type: ignore[index]
        product = self.emit("Mul", [wide, self.constant(_per_channel(self.parameter(k)))])
        return self.emit("Add", [self.names[acc], product])  # type: ignore[index]

    def requantize(self, node: Node) -> str:
        acc, m, m_neg, bounds = node.args
        value = self.emit("Cast", [self.names[acc]], to=TensorProto.FLOAT)  # type: ignore[index]
        factor = self.constant(_per_channel(self.parameter(m)))
        if node.kwargs["prelu"]:
            negative = self.emit("Less", [self.names[acc], self.constant(np.int32(0))])  # type: ignore[index]
            factor = self.emit("Where", [negative, self.constant(_per_channel(self.parameter(m_neg))), factor])
        rounded = self.emit("Round", [self.emit("Mul", [value, factor])])
        zero_point, lo, hi = (np.float32(b) for b in self.parameter(bounds)[:3])
        clipped = self.emit("Clip", [rounded, self.constant(lo - zero_point), self.constant(hi - zero_point)])
        q = self.emit("Cast", [self.emit("Add", [clipped, self.constant(zero_point)])], to=TensorProto.UINT8)
        return self.snap(q, bounds)


class _Qdq(_Writer):
    """Float operators between QuantizeLinear and DequantizeLinear, at the scales that the program was lowered from."""

    def conv_acc(self, node: Node) -> str:
        q, weight, _, _, pad = node.args
        scale, zero_point = _grid(q)  # type: ignore[arg-type]
        rows, columns = node.kwargs["padding"]  # type: ignore[misc, str-unpack]
        source, pads = self.names[q], [rows, columns, rows, columns]  # type: ignore[index]
        if any(pads) and (self.parameter(pad) != zero_point).any():
            source, pads = self.pad(source, self.parameter(pad), (rows, columns)), [0, 0, 0, 0]
        weight_scale = self.program.get_buffer(node.meta["weight_scale"]).numpy()
        real_weight = self._dequantize(self.constant(self.parameter(weight)), weight_scale, np.int8(0), axis=0)
        unit = np.float32(scale) * weight_scale
        bias, shift = self._bias(node, zero_point), self.parameter(node.args[3])
        if shift.any():
            real_bias = self.constant((bias / 2.0**shift * unit).astype(np.float32))
        else:
            real_bias = self._dequantize(self.constant(bias.astype(np.int32)), unit, np.int32(0), axis=0)
        inputs = [self._dequantize(source, np.float32(scale), np.uint8(zero_point)), real_weight, real_bias]
        stride = node.kwargs["stride"]
        return self.emit("Conv", inputs, strides=[stride, stride], pads=pads, group=node.kwargs["groups"])

    def _bias(self, node: Node, zero_point: int) -> NDArray[np.int64]:
        """The bias in accumulator units, the folded zero points taken out again."""
        weight, bias, shift = (self.parameter(argument).astype(np.int64) for argument in node.args[1:4])
        total = bias + (zero_point * weight.sum((1, 2, 3)) << shift)
        user = next(iter(node.users))
        while user.target is ops.add_skip:
            total = total + self.parameter(user.args[2]) * _grid(user.args[1])[1]  # type: ignore[arg-type]
            user = next(iter(user.users))
        return total

    def add_skip(self, node: Node) -> str:
        acc, q, k = node.args
        scale, zero_point = _grid(q)  # type: ignore[arg-type]
        skip = self._dequantize(self.names[q], np.float32(scale), np.uint8(zero_point))  # type: ignore[index]
        gain = (self.parameter(k) * self._unit(acc) / scale).astype(np.float32)  # type: ignore[arg-type]
        if not np.allclose(gain, 1, atol=1e-3):
            skip = self.emit("Mul", [skip, self.constant(_per_channel(gain))])
        return self.emit("Add", [self.names[acc], skip])  # type: ignore[index]

    def _unit(self, acc: Node) -> NDArray[np.float64]:
        """What one step of the accumulator of a convolution is worth, per channel."""
        while acc.target is ops.add_skip:
            acc = acc.args[0]  # type: ignore[assignment]
        weight_scale = self.program.get_buffer(acc.meta["weight_scale"]).numpy().astype(np.float64)
        return _grid(acc.args[0])[0] * weight_scale / 2.0 ** self.parameter(acc.args[3])  # type: ignore[arg-type]

    def requantize(self, node: Node) -> str:
        acc, m, m_neg, bounds = node.args
        value = self.names[acc]  # type: ignore[index]
        scale, zero_point = np.float32(node.meta["scale"]), node.meta["zero_point"]
        if node.kwargs["prelu"]:
            slope = self.parameter(m_neg) / self.parameter(m)
            value = self.emit("PRelu", [value, self.constant(slope.reshape(-1, 1, 1).astype(np.float32))])
        _, lo, hi = (int(bound) for bound in self.parameter(bounds)[:3])
        if (lo, hi) != (0, 255):
            ends = [self.constant((np.float32(bound) - zero_point) * scale) for bound in (lo, hi)]
            value = self.emit("Clip", [value, *ends])
        q = self.emit("QuantizeLinear", [value, self.constant(scale), self.constant(np.uint8(zero_point))])
        return self.snap(q, bounds)

    def _dequantize(self, q: str, scale: Any, zero_point: Any, **attributes: Any) -> str:
        zero = np.full(np.shape(scale), zero_point)
        return self.emit("DequantizeLinear", [q, self.constant(np.asarray(scale)), self.constant(zero)], **attributes)


def _grid(node: Node) -> tuple[float, int]:
    """Scale and zero point of a lattice tensor, found behind its index maps."""
    while node.target in (ops.pixel_shuffle, ops.repeat_channels, ops.concat):
        inner = node.args[0]
        node = inner[0] if node.target is ops.concat else inner  # type: ignore[index, assignment]
    if "scale" not in node.meta:
        raise QsearchError(f"operation {node.name!r} carries no scale; export QDQ from a lowered or stored program")
    return node.meta["scale"], node.meta["zero_point"]
