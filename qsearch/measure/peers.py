"""The same float network in ONNX Runtime, as float32 and quantized by its own tool: what a user would otherwise run."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qsearch.errors import QsearchError
from qsearch.passes.operators import FusedConv, RepeatChannels
from qsearch.passes.rewrite import module_of

OPSET = 21


class OnnxRuntime:
    """A network in ONNX Runtime on this machine: uint8 image [H, W, 3] in, uint8 image out."""

    def __init__(self, model: onnx.ModelProto, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def run(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Upscale one image."""
        result: NDArray[np.uint8] = self._session.run(None, {"image": image})[0]
        return result


def float_onnx(graph: GraphModule, white: float) -> onnx.ModelProto:
    """The float network of a prepared graph, from uint8 [H, W, 3] to uint8 [H·u, W·u, 3]."""
    return _Float(graph).model(white)


def int8_onnx(floating: onnx.ModelProto, images: Iterable[NDArray[np.uint8]]) -> onnx.ModelProto:
    """`floating` quantized by ONNX Runtime's own tool: QDQ, unsigned activations, signed per-channel weights."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(floating, source)
        quantize_static(
            source,
            target,
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


class _Reader(CalibrationDataReader):
    def __init__(self, images: Iterable[NDArray[np.uint8]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image}


class _Float:
    """Writes a prepared graph as float ONNX, node by node; quantizers are passed through."""

    def __init__(self, graph: GraphModule) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.names: dict[Node, str] = {}

    def model(self, white: float) -> onnx.ModelProto:
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self.names[node] = self._begin(white)
            elif node.op == "output":
                self._end(self.names[node.args[0]], white)
            else:
                self.names[node] = self._module(node)
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["H", "W", 3])
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

    def _module(self, node: Node) -> str:
        module = module_of(self.graph, node)
        inputs = [self.names[argument] for argument in node.args if isinstance(argument, Node)]
        if isinstance(module, FusedConv):
            return self._convolution(module, inputs)
        if isinstance(module, nn.PixelShuffle):
            return self._emit("DepthToSpace", inputs, mode="CRD", blocksize=module.upscale_factor)
        if isinstance(module, RepeatChannels):
            index = np.repeat(np.arange(3), module.n)
            return self._emit("Gather", [*inputs, self._constant(index)], axis=1)
        return inputs[0]

    def _convolution(self, conv: FusedConv, inputs: list[str]) -> str:
        if bool(conv.pad_value.any()):
            pad = self._tensor(conv.pad_value.view(1, -1, 1, 1))
            rows, columns = conv.padding
            pads = self._constant(np.array([0, 0, rows, columns, 0, 0, rows, columns]))
            inner = self._emit("Pad", [self._emit("Sub", [inputs[0], pad]), pads])
            source, padding = self._emit("Add", [inner, pad]), (0, 0)
        else:
            source, padding = inputs[0], conv.padding
        weights = [self._tensor(conv.weight), self._tensor(conv.bias)]
        value = self._emit("Conv", [source, *weights], pads=[*padding, *padding], group=conv.groups,
                           strides=[conv.stride, conv.stride])  # fmt: skip
        for skip, gain in zip(inputs[1:], conv.skip_gains, strict=True):
            if bool((gain != 1).any()):
                raise QsearchError("peers take the network before its channels are equalized")
            value = self._emit("Add", [value, skip])
        if conv.activation == "relu":
            return self._emit("Relu", [value])
        if conv.activation == "prelu":
            return self._emit("PRelu", [value, self._tensor(conv.slope.view(-1, 1, 1))])
        if conv.activation == "clip":
            ends = ["" if end is None else self._constant(np.float32(end)) for end in conv.clip]
            return self._emit("Clip", [value, *ends])
        return value

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
