"""ClustBlock frozen in integers, so that every machine makes the same decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from qsearch.errors import QsearchError
from qsearch.files import write_atomic
from qsearch.integer import ops
from qsearch.patches.clustblock import MID_GREY, ClustBlock

BITS = 8
LOGIT_STEPS = 256
"""Steps of an integer logit for each natural unit."""
ONE = 1 << 16
"""The integer that stands for probability 1."""
BATCH = 64
KIND = "texture classifier 1"


@dataclass(frozen=True)
class Classifier:
    """The integer network: uint8 patches in, integer class probabilities out, no float but one multiplication a layer.

    Convolutions are those of `qsearch.integer.ops`. The mean is the sum over the pixels, in the linear layer's factor.
    Softmax is E[max − logit] / ΣE with a stored table E of 2¹⁶·exp(−d/256), divided in integers.
    """

    tensors: dict[str, Tensor]
    """`<i>.weight` int8, `<i>.bias` int32, `<i>.m` float32 of the convolutions; `linear.weight` int8 [classes, C],
    `linear.bias` int64 [classes] in logit steps, `linear.factor` float64 []; `exp` int64 [D]."""

    @staticmethod
    def freeze(block: ClustBlock, patches: Sequence[NDArray[np.uint8]]) -> "Classifier":
        """The integer form of `block`, with activation ranges from `patches` (uint8 [h, w, 3], one size)."""
        pixels = torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            maps = block.maps((pixels - MID_GREY) / MID_GREY)
        tensors: dict[str, Tensor] = {}
        scale, zero_point = 1.0 / MID_GREY, MID_GREY
        for index, (convolution, found) in enumerate(zip(block.convolutions, maps, strict=True)):
            weight = convolution.weight.detach().double()  # type: ignore[operator]
            bias = convolution.bias.detach().double()  # type: ignore[operator]
            steps = weight.abs().amax((1, 2, 3)).clamp_min(1e-9) / 127
            q = torch.round(weight / steps.view(-1, 1, 1, 1))
            unit, out_scale = scale * steps, max(float(found.max()), 1e-6) / 255
            tensors[f"{index}.weight"] = q.to(torch.int8)
            tensors[f"{index}.bias"] = (torch.round(bias / unit) - zero_point * q.sum((1, 2, 3))).to(torch.int32)
            tensors[f"{index}.m"] = (unit / out_scale).float()
            scale, zero_point = out_scale, 0
        weight, bias = block.linear.weight.detach().double(), block.linear.bias.detach().double()
        step = max(float(weight.abs().max()), 1e-9) / 127
        tensors["linear.weight"] = torch.round(weight / step).to(torch.int8)
        tensors["linear.bias"] = torch.round(bias * LOGIT_STEPS).long()
        tensors["linear.factor"] = torch.tensor(scale * step * LOGIT_STEPS, dtype=torch.float64)
        distance = torch.arange(12 * LOGIT_STEPS, dtype=torch.float64) / LOGIT_STEPS
        tensors["exp"] = torch.round(ONE * torch.exp(-distance)).long()
        return Classifier(tensors)

    @property
    def classes(self) -> int:
        """The number of texture classes."""
        return len(self.tensors["linear.weight"])

    def probabilities(self, patches: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """int64 [N, classes] in 0…65536 for uint8 patches [h, w, 3] of one size."""
        return _softmax(self.logits(patches), self.tensors["exp"].numpy())

    def logits(self, patches: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """int64 [N, classes] in 1/256 of a natural unit."""
        rows = [self._sums(np.stack(patches[at : at + BATCH])) for at in range(0, len(patches), BATCH)]
        sums = torch.cat([row for row, _ in rows])
        weight, pixels = self.tensors["linear.weight"].long(), rows[0][1]
        products = torch.round((sums @ weight.T).double() * (self.tensors["linear.factor"] / pixels))
        return (products.long() + self.tensors["linear.bias"]).numpy()

    def program(self) -> GraphModule:
        """The convolutions as an integer program: the image in, the last map uint8 [N, C, h/8, w/8] out."""
        root, graph = nn.Module(), Graph()
        value, pad = graph.placeholder("image"), MID_GREY
        for index in range(self._layers):
            weight, bias, m = (self.tensors[f"{index}.{name}"] for name in ("weight", "bias", "m"))
            parameters = {
                "weight": weight,
                "bias": bias,
                "shift": torch.zeros_like(bias),
                "pad": torch.full((weight.shape[1],), pad, dtype=torch.uint8),
                "m": m,
                "bounds": torch.tensor([0, 0, 255], dtype=torch.int32),
            }
            nodes: dict[str, Node] = {}
            for name, tensor in parameters.items():
                root.register_buffer(f"layer{index}_{name}", tensor.clone())
                nodes[name] = graph.get_attr(f"layer{index}_{name}")
            read = (value, nodes["weight"], nodes["bias"], nodes["shift"], nodes["pad"], 2, (1, 1))
            acc = graph.create_node("call_function", ops.conv_acc, read, name=f"layer{index}")
            value = graph.call_function(ops.requantize, (acc, nodes["m"], nodes["m"], nodes["bounds"]))
            pad = 0
        graph.output(value)
        return GraphModule(root, graph)

    def macs(self, height: int, width: int) -> int:
        """Multiplications for one patch of `height` × `width` pixels."""
        total = self.tensors["linear.weight"].numel()
        for index in range(self._layers):
            height, width = (height + 1) // 2, (width + 1) // 2
            total += self.tensors[f"{index}.weight"].numel() * height * width
        return total

    def bitops(self, height: int, width: int) -> int:
        """Σ MAC · 8 · 8 for one patch."""
        return self.macs(height, width) * BITS * BITS

    def save(self, path: Path | str) -> None:
        """Write the integers as safetensors, atomically."""
        tensors = {name: value.contiguous() for name, value in sorted(self.tensors.items())}
        write_atomic(path, save(tensors, {"kind": KIND}))

    @staticmethod
    def load(path: Path | str) -> "Classifier":
        """Read what `save` wrote; raises `QsearchError` naming the file for anything else."""
        try:
            with safe_open(str(path), framework="pt") as file:
                kind = (file.metadata() or {}).get("kind")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except FileNotFoundError as error:
            raise QsearchError(f"texture classifier {path} does not exist") from error
        except (OSError, SafetensorError) as error:
            raise QsearchError(f"texture classifier {path} is damaged or no safetensors file") from error
        if kind != KIND:
            raise QsearchError(f"{path} holds no texture classifier: train one on low-resolution images")
        return Classifier(tensors)

    @property
    def _layers(self) -> int:
        return sum(name.endswith(".m") for name in self.tensors)

    def _sums(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, int]:
        """Σ over the pixels of every channel of the last map, int64 [N, C], and the number of pixels."""
        q = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        pad, bounds = MID_GREY, torch.tensor([0, 0, 255], dtype=torch.int32)
        for index in range(self._layers):
            weight, bias, m = (self.tensors[f"{index}.{name}"] for name in ("weight", "bias", "m"))
            shift, border = torch.zeros_like(bias), torch.full((weight.shape[1],), pad, dtype=torch.uint8)
            acc = ops.conv_acc(q, weight, bias, shift, border, stride=2, padding=(1, 1))
            q, pad = ops.requantize(acc, m, m, bounds), 0
        return q.long().sum((2, 3)), q.shape[2] * q.shape[3]


def _softmax(logits: NDArray[np.int64], table: NDArray[np.int64]) -> NDArray[np.int64]:
    distance = logits.max(1, keepdims=True) - logits
    powers = np.where(distance < len(table), table[np.minimum(distance, len(table) - 1)], 0)
    return (powers * ONE) // powers.sum(1, keepdims=True)
