"""ncnn, with int8 convolutions: per-channel weights and symmetric activations, both by the largest magnitude."""

import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.measure.peers.peer import Peer, Run, Subject
from qsearch.measure.peers.steps import IMAGE, Step, ranges, replaced

UNFOLDED_KERNEL, MOST_UNFOLDED_BYTES = 3, 4 << 30
MAGIC, INT8_WEIGHTS = 7767517, 0x000D4B38


def _open(subject: Subject, threads: int) -> Run:
    import ncnn

    steps, white = subject.steps, subject.model.white
    _check_memory(subject, steps)
    parameters, weights = write_ncnn(steps, ranges(steps, subject.inputs))
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "net.param").write_text(parameters)
        (Path(folder) / "net.bin").write_bytes(weights)
        if net.load_param(f"{folder}/net.param") or net.load_model(f"{folder}/net.bin"):
            raise QsearchError("ncnn cannot load the network")
    to_unit, to_pixels = [white / 255] * 3, [255 / white] * 3
    result_name = steps[-1].result

    def run(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        source = ncnn.Mat.from_pixels(image, ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        source.substract_mean_normalize([], to_unit)
        with net.create_extractor() as extractor:
            extractor.input(IMAGE, source)
            status, found = extractor.extract(result_name)
        if status:
            raise QsearchError(f"ncnn failed with status {status}")
        found.substract_mean_normalize([], to_pixels)
        planes = np.array(found, copy=False)
        return np.ascontiguousarray(np.rint(planes.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0))

    return run


def _check_memory(subject: Subject, steps: Sequence[Step]) -> None:
    """ncnn unfolds the input of a large kernel into one matrix; refuses where that would fill the machine's memory."""
    height, width = subject.size
    sizes = {IMAGE: height * width}
    for step in steps:
        pixels = sizes[step.inputs[0]]
        if step.kind == "conv":
            taps = step["weight"][0].numel()
            unfolded = pixels * taps * 4
            if max(step["weight"].shape[2:]) > UNFOLDED_KERNEL and unfolded > MOST_UNFOLDED_BYTES:
                raise QsearchError(
                    f"peer ncnn is left out: it unfolds {step.result} into {unfolded / 1e9:.0f} GB of memory"
                )
        sizes[step.result] = pixels * (step["r"] ** 2 if step.kind == "shuffle" else 1)


def write_ncnn(steps: Sequence[Step], found: Mapping[str, tuple[float, float]]) -> tuple[str, bytes]:
    """The text of a .param file and the content of its .bin file; `found` holds the range of every value."""
    writer = _Writer(steps, found)
    writer.layer("Input", IMAGE, (), "")
    for step in steps:
        writer.step(step)
    header = f"{MAGIC}\n{len(writer.lines)} {writer.blobs}\n"
    return header + "\n".join(writer.lines) + "\n", bytes(writer.weights)


class _Writer:
    def __init__(self, steps: Sequence[Step], found: Mapping[str, tuple[float, float]]) -> None:
        self.steps, self.found = steps, found
        self.lines: list[str] = []
        self.blobs = 0
        self.weights = bytearray()
        self.reads: dict[str, int] = {}

    def step(self, step: Step) -> None:
        """The layers of one operator."""
        match step.kind:
            case "shift":
                self.layer("Scale", step.result, step.inputs, f"0={step['value'].numel()} 1=1")
                self._append(torch.ones_like(step["value"]))
                self._append(-step["value"])
            case "conv":
                self._convolution(step)
            case "add":
                self.layer("BinaryOp", step.result, step.inputs, "0=0")
            case "relu":
                self.layer("ReLU", step.result, step.inputs, "")
            case "prelu":
                self.layer("PReLU", step.result, step.inputs, f"0={step['slope'].numel()}")
                self._append(step["slope"])
            case "clip":
                lo, hi = (limit if end is None else end for end, limit in ((step["lo"], -3e38), (step["hi"], 3e38)))
                self.layer("Clip", step.result, step.inputs, f"0={lo:e} 1={hi:e}")
            case "shuffle":
                self.layer("PixelShuffle", step.result, step.inputs, f"0={step['r']}")
            case "repeat":
                self._repeat(step)
            case "concat":
                self.layer("Concat", step.result, step.inputs, "0=0")

    def layer(self, kind: str, result: str, inputs: Sequence[str], parameters: str) -> None:
        """One line, and a Split where several layers read the result: a blob has one reader in ncnn."""
        sources = [self._read(name) for name in inputs]
        count = sum(step.inputs.count(result) for step in self.steps)
        self._line(kind, result, sources, [result], parameters)
        if count > 1:
            self._line("Split", f"{result}_split", [result], [f"{result}_{i}" for i in range(count)], "")
            self.reads[result] = 0

    def _line(self, kind: str, name: str, inputs: Sequence[str], results: Sequence[str], parameters: str) -> None:
        self.blobs += len(results)
        self.lines.append(" ".join([kind, name, str(len(inputs)), str(len(results)), *inputs, *results, parameters]))

    def _read(self, name: str) -> str:
        if name not in self.reads:
            return name
        self.reads[name] += 1
        return f"{name}_{self.reads[name] - 1}"

    def _convolution(self, step: Step) -> None:
        groups = step["groups"]
        if groups == 1:
            self._single(step, step.result, step.inputs)
            return
        # Grouped int8 convolutions of ncnn give wrong sums for groups of 8 channels and more: one convolution a group.
        parts = [f"{step.result}_part{group}" for group in range(groups)]
        sizes = ",".join([str(groups), *["-233"] * groups])
        self._line("Slice", f"{step.result}_slice", [self._read(step.inputs[0])], [f"{part}_in" for part in parts],
                   f"-23300={sizes} 1=0")  # fmt: skip
        for part, weight, bias in zip(parts, step["weight"].chunk(groups), step["bias"].chunk(groups), strict=True):
            self._single(replaced(step, weight=weight, bias=bias), part, [f"{part}_in"])
        self.layer("Concat", step.result, parts, "0=0")

    def _single(self, step: Step, result: str, inputs: Sequence[str]) -> None:
        """An int8 convolution; `step` says the range of its input."""
        weight, (rows, columns) = step["weight"], step["padding"]
        count, _, height, width = weight.shape
        largest = max(abs(end) for end in self.found[step.inputs[0]])
        scale = 127 / weight.abs().amax((1, 2, 3)).clamp_min(1e-12)
        values = {"0": count, "1": width, "11": height, "3": step["stride"], "4": columns, "14": rows, "5": 1,
                  "6": weight.numel(), "8": 1}  # fmt: skip
        self.layer("Convolution", result, inputs, " ".join(f"{key}={value}" for key, value in values.items()))
        q = torch.round(weight * scale.view(-1, 1, 1, 1)).clamp(-127, 127).to(torch.int8)
        self.weights += struct.pack("<I", INT8_WEIGHTS) + q.contiguous().numpy().tobytes()
        self.weights += bytes(-len(self.weights) % 4)
        self._append(step["bias"])
        self._append(scale)
        self._append(torch.full((1,), 127 / max(largest, 1e-12)))

    def _repeat(self, step: Step) -> None:
        """Every channel n times in a row, as a float 1×1 convolution of ones and zeros."""
        n, channels = step["n"], 3
        weight = torch.eye(channels).repeat_interleave(n, 0)
        text = f"0={channels * n} 1=1 5=0 6={weight.numel()}"
        self.layer("Convolution", step.result, step.inputs, text)
        self.weights += struct.pack("<I", 0)
        self._append(weight)

    def _append(self, value: torch.Tensor) -> None:
        self.weights += value.detach().float().contiguous().numpy().tobytes()


PEERS = (Peer("ncnn", "ncnn INT8", "ncnn", _open),)
