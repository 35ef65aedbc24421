"""Rewrite a traced graph in the vocabulary of `operators`, whichever tracer made it."""

import math
import operator
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional as F

from qsearch.errors import QsearchError
from qsearch.passes.channels import channels_of
from qsearch.passes.operators import Add, Affine, Clip, Concat, FusedConv, RepeatChannels, SelectChannels

aten = torch.ops.aten
IDENTITY_MODULES = (nn.Identity, nn.Dropout, nn.Dropout2d)
ATTENTION = ("mean", "std", "var", "pool", "sigmoid", "softmax", "matmul", "bmm", "attention")
"""Words in the names of operators that depend on the whole image or multiply activations."""
KEPT_MODULES = (nn.BatchNorm2d, nn.ReLU, nn.PReLU, nn.PixelShuffle)


def normalize(traced: GraphModule) -> GraphModule:
    """A new graph in which every node calls a module of the vocabulary.

    Raises `QsearchError` naming the node for an operator outside the vocabulary.
    """
    return _Normalizer(traced).run()


class _Normalizer:
    def __init__(self, source: GraphModule) -> None:
        self.source = source
        self.root = nn.Module()
        self.graph = Graph()
        self.values: dict[Node, Any] = {}
        self.count = 0

    def run(self) -> GraphModule:
        for node in self.source.graph.nodes:
            self.values[node] = self._convert(node)
        self.graph.lint()
        return GraphModule(self.root, self.graph)

    def _convert(self, node: Node) -> Any:
        if node.op == "placeholder":
            if any(isinstance(value, Node) and value.op == "placeholder" for value in self.values.values()):
                raise QsearchError(f"node {node.name!r}: the network has several inputs; only one image is supported")
            return self.graph.placeholder("image")
        if node.op == "get_attr":
            return _attribute(self.source, str(node.target))
        if node.op == "output":
            result = node.args[0]
            result = result[0] if isinstance(result, (tuple, list)) else result
            return self.graph.output(self.values[result])  # type: ignore[index]
        if _is_guard(node):
            return None
        if node.op == "call_module":
            return self._module(node)
        handler = HANDLERS.get(node.target)
        if handler is None:
            _refuse_statistics(node, _operator_name(node))
            raise QsearchError(f"node {node.name!r}: operator {_operator_name(node)} is not supported")
        args = torch.fx.map_arg(node.args, lambda n: self.values[n])
        kwargs = torch.fx.map_arg(node.kwargs, lambda n: self.values[n])
        try:
            return handler(self, node, *args, **kwargs)
        except (TypeError, ValueError) as error:
            raise QsearchError(
                f"node {node.name!r}: {_operator_name(node)} is used in a way that is not supported ({error})"
            ) from error

    def _module(self, node: Node) -> Node:
        module = self.source.get_submodule(str(node.target))
        x = self.values[node.args[0]]  # type: ignore[index]
        if isinstance(module, IDENTITY_MODULES):
            return x
        if isinstance(module, nn.Conv2d):
            return self.convolution(node, module, x, str(node.target))
        if isinstance(module, nn.LeakyReLU):
            module = leaky_relu(module.negative_slope)
        elif isinstance(module, nn.ReLU6):
            module = Clip(0.0, 6.0)
        elif isinstance(module, nn.Hardtanh):
            module = Clip(float(module.min_val), float(module.max_val))
        elif not isinstance(module, KEPT_MODULES):
            _refuse_statistics(node, type(module).__name__)
            raise QsearchError(f"node {node.name!r}: module {type(module).__name__} is not supported")
        return self.call(module, x, name=str(node.target))

    def convolution(self, node: Node, conv: nn.Conv2d, x: Any, name: str) -> Node:
        """A node of a `FusedConv` without skips and activation; a convolution used twice gets two names."""
        padding = _checked_padding(node, conv)
        first = name = name or node.name
        calls = 1
        while _has(self.root, name):
            calls += 1
            name = f"{first}_{calls}"
        return self.call(FusedConv(name, conv, padding), x, name=name)

    def call(self, module: nn.Module, *args: Any, name: str = "") -> Node:
        """A node that calls `module`, kept under `name` or a fresh one."""
        name = self._free(name or type(module).__name__.lower())
        _set(self.root, name, module)
        return self.graph.call_module(name, args)

    def _free(self, name: str) -> str:
        if not _has(self.root, name):
            return name
        self.count += 1
        return f"{name}_{self.count}"


def _set(root: nn.Module, name: str, module: nn.Module) -> None:
    *path, leaf = name.split(".")
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(leaf, module)


def _has(root: nn.Module, name: str) -> bool:
    try:
        root.get_submodule(name)
    except AttributeError:
        return False
    return True


def _attribute(root: nn.Module, name: str) -> Any:
    for part in name.split("."):
        root = getattr(root, part)
    return root.detach() if isinstance(root, Tensor) else root


def _operator_name(node: Node) -> str:
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _refuse_statistics(node: Node, operator_name: str) -> None:
    """Raise `QsearchError` naming the layer if `operator_name` belongs to attention."""
    if any(word in operator_name.lower() for word in ATTENTION):
        layer = next(reversed(node.meta.get("nn_module_stack", {}).values()), (node.name,))[0]
        raise QsearchError(
            f"node {node.name!r} in layer {layer!r}: {operator_name} (attention, global statistics) has no integer "
            "form: use a variant of the network without it"
        )


def _is_guard(node: Node) -> bool:
    """Shape assertions of torch.export; they compute nothing."""
    return any(word in str(node.target) for word in ("sym_size", "_assert", "sym_constrain", "_guards_fn"))


def _checked_padding(node: Node, conv: nn.Conv2d) -> tuple[int, int]:
    """Rows and columns of zero padding; raises `QsearchError` naming the node for other kinds of convolution."""
    problems = [
        (conv.padding_mode != "zeros", f"padding_mode={conv.padding_mode!r}"),
        (tuple(conv.dilation) != (1, 1), f"dilation={conv.dilation}"),
        (conv.stride[0] != conv.stride[1], f"stride={conv.stride}"),
    ]
    padding = conv.padding
    if padding == "same" and all(k % 2 == 1 for k in conv.kernel_size) and conv.stride == (1, 1):
        padding = (conv.kernel_size[0] // 2, conv.kernel_size[1] // 2)
    elif padding == "valid":
        padding = (0, 0)
    problems.append((isinstance(padding, str), f"padding={padding!r}"))
    for wrong, text in problems:
        if wrong:
            raise QsearchError(f"node {node.name!r}: convolution with {text} is not supported")
    return int(padding[0]), int(padding[1])


def leaky_relu(slope: float) -> nn.PReLU:
    """A leaky ReLU as a PReLU of one slope."""
    return nn.PReLU(1, init=slope)


def _constant(value: Any) -> Tensor:
    tensor = value if isinstance(value, Tensor) else torch.tensor(float(value))
    if tensor.numel() != 1 and (tensor.ndim < 3 or tensor.numel() != tensor.shape[-3]):
        raise ValueError(f"a constant of shape {tuple(tensor.shape)} is not one value per channel")
    return tensor.float().reshape(-1)


def _add(n: _Normalizer, node: Node, x: Any, y: Any, alpha: float = 1.0) -> Any:
    if isinstance(x, Node) and isinstance(y, Node):
        if alpha != 1:
            y = n.call(Affine(torch.tensor(float(alpha)), torch.zeros(1)), y)
        return n.call(Add(), x, y)
    if not isinstance(x, Node):
        x, y = y, x
    return n.call(Affine(torch.ones(1), _constant(y) * alpha), x)


def _sub(n: _Normalizer, node: Node, x: Any, y: Any) -> Any:
    if isinstance(y, Node):
        y = n.call(Affine(-torch.ones(1), torch.zeros(1)), y)
        return _add(n, node, x, y)
    return n.call(Affine(torch.ones(1), -_constant(y)), x)


def _mul(n: _Normalizer, node: Node, x: Any, y: Any) -> Any:
    if isinstance(x, Node) and isinstance(y, Node):
        raise ValueError("the product of two activations")
    x, y = (x, y) if isinstance(x, Node) else (y, x)
    return n.call(Affine(_constant(y), torch.zeros(1)), x)


def _div(n: _Normalizer, node: Node, x: Any, y: Any) -> Any:
    if isinstance(y, Node):
        raise ValueError("division by an activation")
    return n.call(Affine(1.0 / _constant(y), torch.zeros(1)), x)


def _clamp(n: _Normalizer, node: Node, x: Any, min: Any = None, max: Any = None) -> Any:
    lo, hi = (None if v is None or math.isinf(v) else float(v) for v in (min, max))
    return n.call(nn.ReLU(), x) if (lo, hi) == (0.0, None) else n.call(Clip(lo, hi), x)


def _relu(n: _Normalizer, node: Node, x: Any, inplace: bool = False) -> Any:
    return n.call(nn.ReLU(), x)


def _leaky(n: _Normalizer, node: Node, x: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    return n.call(leaky_relu(negative_slope), x)


def _prelu(n: _Normalizer, node: Node, x: Any, weight: Tensor) -> Any:
    module = nn.PReLU(weight.numel())
    module.weight.data = weight.detach().clone()
    return n.call(module, x)


def _shuffle(n: _Normalizer, node: Node, x: Any, upscale_factor: int) -> Any:
    return n.call(nn.PixelShuffle(int(upscale_factor)), x)


def _repeat_interleave(n: _Normalizer, node: Node, x: Any, repeats: int, dim: int | None = None) -> Any:
    if dim != 1:
        raise ValueError("only channels (dim=1) can be repeated")
    return n.call(RepeatChannels(int(repeats)), x)


def _cat(n: _Normalizer, node: Node, tensors: Any, dim: int = 0) -> Any:
    if dim not in (1, -3) or not all(isinstance(tensor, Node) for tensor in tensors):
        raise ValueError("only activations can be joined, along their channels (dim=1)")
    return n.call(Concat(), *tensors) if len(tensors) > 1 else tensors[0]


def _split(n: _Normalizer, node: Node, x: Any, sizes: Any, dim: int = 0) -> Any:
    channels = _channels_to_divide(n, x, dim)
    if isinstance(sizes, int):
        sizes = [min(sizes, channels - start) for start in range(0, channels, sizes)]
    stops = list(accumulate(sizes))
    return [n.call(SelectChannels(stop - size, stop), x) for size, stop in zip(sizes, stops, strict=True)]


def _chunk(n: _Normalizer, node: Node, x: Any, chunks: int, dim: int = 0) -> Any:
    return _split(n, node, x, -(-_channels_to_divide(n, x, dim) // chunks), dim)


def _getitem(n: _Normalizer, node: Node, x: Any, index: Any) -> Any:
    if isinstance(x, list):
        return x[index]
    index = index if isinstance(index, tuple) else (index,)
    rest = [part for axis, part in enumerate(index) if axis != 1]
    if not isinstance(x, Node) or any(part not in (slice(None), ...) for part in rest) or len(index) < 2:
        raise ValueError("only channels (axis 1) can be indexed, by a slice")
    return _slice(n, node, x, 1, index[1].start, index[1].stop, index[1].step)


def _slice(n: _Normalizer, node: Node, x: Any, dim: int = 0, start: Any = None, stop: Any = None, step: Any = 1) -> Any:
    channels = _channels_to_divide(n, x, dim)
    if step not in (None, 1):
        raise ValueError("channels can be sliced only in steps of 1")
    start, stop, _ = slice(start, stop).indices(channels)
    return x if (start, stop) == (0, channels) else n.call(SelectChannels(start, stop), x)


def _channels_to_divide(n: _Normalizer, x: Any, dim: int) -> int:
    if dim not in (1, -3) or not isinstance(x, Node):
        raise ValueError("only the channels (dim=1) of an activation can be divided")
    return channels_of(n.root, x)


def _conv2d(n: _Normalizer, node: Node, x: Any, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
            padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:  # fmt: skip
    pair = lambda v: tuple(v) if isinstance(v, (list, tuple)) and len(v) == 2 else v  # noqa: E731
    out_channels, in_channels, *kernel = weight.shape
    conv = nn.Conv2d(in_channels * groups, out_channels, (kernel[0], kernel[1]), pair(stride), pair(padding),
                     pair(dilation), groups, bias=bias is not None)  # fmt: skip
    conv.weight.data = weight.detach().clone()
    if bias is not None and conv.bias is not None:
        conv.bias.data = bias.detach().clone()
    return n.convolution(node, conv, x, _parameter_owner(node))


def _batch_norm(n: _Normalizer, node: Node, x: Any, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor,
                training: bool, momentum: float, eps: float, *_: Any) -> Any:  # fmt: skip
    norm = nn.BatchNorm2d(mean.numel(), eps=eps)
    norm.load_state_dict({"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}, strict=False)
    return n.call(norm.eval(), x)


def _parameter_owner(node: Node) -> str:
    weight = node.args[1]
    return str(weight.target).rsplit(".", 1)[0] if isinstance(weight, Node) and "." in str(weight.target) else ""


HANDLERS: dict[Any, Callable[..., Any]] = {}
for _handler, _targets in (
    (_add, (operator.add, operator.iadd, torch.add, "add", "add_", aten.add.Tensor, aten.add_.Tensor)),
    (_sub, (operator.sub, operator.isub, torch.sub, "sub", aten.sub.Tensor)),
    (_mul, (operator.mul, operator.imul, torch.mul, "mul", "mul_", aten.mul.Tensor, aten.mul_.Tensor)),
    (_div, (operator.truediv, torch.div, "div", aten.div.Tensor)),
    (_clamp, (torch.clamp, "clamp", "clamp_", aten.clamp.default, aten.clamp_.default)),
    (_relu, (torch.relu, F.relu, "relu", "relu_", aten.relu.default, aten.relu_.default)),
    (_leaky, (F.leaky_relu, aten.leaky_relu.default, aten.leaky_relu_.default)),
    (_prelu, (F.prelu, torch.prelu, aten.prelu.default)),
    (_shuffle, (F.pixel_shuffle, torch.pixel_shuffle, aten.pixel_shuffle.default)),
    (_repeat_interleave, (torch.repeat_interleave, "repeat_interleave", aten.repeat_interleave.self_int)),
    (_cat, (torch.cat, torch.concat, torch.concatenate, aten.cat.default)),
    (_split, (torch.split, "split", aten.split.Tensor, aten.split_with_sizes.default)),
    (_chunk, (torch.chunk, "chunk", aten.chunk.default)),
    (_getitem, (operator.getitem,)),
    (_slice, (aten.slice.Tensor,)),
    (_conv2d, (F.conv2d, torch.conv2d, aten.conv2d.default)),
    (_batch_norm, (aten.batch_norm.default,)),
):
    HANDLERS.update(dict.fromkeys(_targets, _handler))
