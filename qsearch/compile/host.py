"""Runs a compiled network on this machine."""

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi
from torch.fx import GraphModule

from qsearch.compile import code_budget, kernels, threads
from qsearch.compile.alignment import aligned, aligned_copy
from qsearch.compile.cache import host_kernels
from qsearch.compile.fusion import IMAGE_CHANNELS
from qsearch.compile.plan import INPUT, Feature, Plan
from qsearch.errors import QsearchError
from qsearch.host import detect_host

# Bound calls are small; the arena, which is not, is shared by all sizes.
_SIZES_KEPT = 64


class HostNetwork:
    """A compiled network: uint8 image [H, W, 3] in, uint8 image [H·upscale, W·upscale, channels] out.

    `threads` defaults to all processors. `isa` chooses a weaker instruction set than the machine's best. `cache` is the
    folder of compiled kernels. `choose` picks every layer's algorithm as for an artefact, by default one that suits all
    values. Memory is that of the largest image so far. Not for concurrent calls.
    """

    def __init__(
        self,
        program: GraphModule,
        threads: int | None = None,
        isa: str | None = None,
        cache: Path | None = None,
        choose: kernels.Choose = kernels.plain,
    ) -> None:
        self.isa = isa or kernels.host_isas()[0]
        if self.isa not in kernels.host_isas():
            raise QsearchError(f"this machine cannot run '{self.isa}' kernels; it runs {kernels.host_isas()}")
        self.threads = threads
        self._cache, self._choose = cache, choose
        self._slots: list[np.ndarray] = []
        self._params: dict[str, np.ndarray] = {}
        self._calls: dict[tuple[int, int], Calls] = {}
        self.set_program(program)

    @property
    def threads(self) -> int:
        """Threads of every following `run`."""
        return self._threads

    @threads.setter
    def threads(self, count: int | None) -> None:
        self._threads = threads.available() if count is None else count
        if not 1 <= self._threads <= threads.available():
            raise QsearchError(f"threads must be 1 to {threads.available()} on this machine, not {count}")

    def set_program(self, program: GraphModule) -> None:
        """Runs `program` from now on: usually another allocation of the same network, with the same kernels."""
        new = code_budget.build(program, self.isa, detect_host().arch, self._choose, folder=self._cache)
        same = bool(self._params) and all(
            getattr(new, part) == getattr(self.plan, part) for part in ("steps", "buffers", "features", "outputs")
        )
        if same:
            self.plan: Plan = new
            for name, values in new.params.items():
                np.copyto(self._params[name], values)
            return
        self._functions = host_kernels([step.spec for step in new.steps], self.isa, self._cache)
        self.plan = new
        self._params = {name: aligned_copy(values) for name, values in new.params.items()}
        self._tensors = _tensors(self._params)
        self._calls.clear()

    def run(self, image: np.ndarray) -> np.ndarray:
        """The network's output for `image`; raises `QsearchError` for another type or an impossible size."""
        if not self.plan.whole:
            raise QsearchError("this program is part of a network: it takes or gives more than one image")
        return self._calls_for(image.shape[:2]).run(self._checked(image))[0]

    def run_timed(self, image: np.ndarray) -> list[tuple[str, float]]:
        """Runs `image` and gives the seconds of every step of the plan, by its name."""
        seconds = self._calls_for(image.shape[:2]).run_timed(self._checked(image))
        return [(step.name, elapsed) for step, elapsed in zip(self.plan.steps, seconds, strict=True)]

    def run_part(self, image: np.ndarray | None, features: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs of a program that is part of a network, each uint8 [rows, columns, channels].

        `image` is uint8 [H, W, 3] where the program has an image; `features` are its other inputs by their names, each
        uint8 [H, W, channels]. Raises `QsearchError` where one is missing or has another type or size.
        """
        if (image is None) == (INPUT in self.plan.buffers):
            raise QsearchError("this part of a network takes " + ("an image" if image is None else "no image"))
        given = None if image is None else self._checked(image)
        size = next(value.shape[:2] for value in (image, *features.values()) if value is not None)
        calls = self._calls_for(size)
        for feature in self.plan.features:
            value = features.get(feature.name)
            if value is None or value.dtype != np.uint8 or value.shape != (*size, feature.channels):
                found = "nothing" if value is None else f"{value.dtype} {list(value.shape)}"
                raise QsearchError(f"input '{feature.name}' must be uint8 {[*size, feature.channels]}, not {found}")
            calls.place(feature, value)
        return calls.run(given)

    def _checked(self, image: np.ndarray) -> np.ndarray:
        """The image as kernels read it."""
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != IMAGE_CHANNELS:
            raise QsearchError(f"an image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        if image.flags.c_contiguous and image.flags.writeable:
            return image
        return np.array(image, order="C")

    def _calls_for(self, size: tuple[int, ...]) -> "Calls":
        threads.use(self._threads)
        return self._calls.get((size[0], size[1])) or self._bind(size[0], size[1])

    def _bind(self, height: int, width: int) -> "Calls":
        sizes = self.plan.sizes(height, width)
        needed = self.plan.slot_bytes(height, width)
        if len(needed) > len(self._slots) or any(n > slot.size for n, slot in zip(needed, self._slots, strict=False)):
            have = [slot.size for slot in self._slots] + [0] * len(needed)
            self._calls.clear()
            self._slots = []
            self._slots = [aligned(max(n, old)) for n, old in zip(needed, have, strict=False)]
        shapes = {name: buffer.shape(sizes[name]) for name, buffer in self.plan.buffers.items()}
        arrays = {feature.buffer: _array(shapes[feature.buffer]) for feature in self.plan.features}
        for feature in self.plan.features:
            arrays[feature.buffer][..., feature.first : feature.first + len(feature.fill)] = feature.fill
        for name, buffer in self.plan.buffers.items():
            if buffer.slot is not None:
                arrays[name] = self._slots[buffer.slot][: int(np.prod(shapes[name]))].reshape(shapes[name])
        if len(self._calls) >= _SIZES_KEPT:
            self._calls.clear()
        self._calls[height, width] = self._called(arrays, shapes)
        return self._calls[height, width]

    def _called(self, arrays: dict[str, np.ndarray], shapes: Mapping[str, tuple[int, int, int]]) -> "Calls":
        return Calls(self.plan, self._functions, self._tensors, arrays, shapes)


class Calls:
    """The kernel calls for one image size, with all arguments but the image and the outputs in place."""

    def __init__(
        self,
        network: Plan,
        functions: list[Any],
        params: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        shapes: Mapping[str, tuple[int, int, int]],
    ) -> None:
        self.buffers, self._arrays = network.buffers, arrays
        self._output_shapes = {name: shapes[name] for name in network.outputs}
        tensors = {**params, **_tensors(arrays)}
        self._calls = [
            (function, [tensors.get(name) for name in step.arguments])
            for function, step in zip(functions, network.steps, strict=True)
        ]
        self._images = {
            name: [
                (arguments, step.arguments.index(name))
                for (_, arguments), step in zip(self._calls, network.steps, strict=True)
                if name in step.arguments
            ]
            for name in (INPUT, *network.outputs)
        }

    def place(self, feature: Feature, value: np.ndarray) -> None:
        border = self.buffers[feature.buffer].border
        rows, columns = (slice(border, border + size) for size in value.shape[:2])
        self._arrays[feature.buffer][rows, columns, feature.first : feature.first + feature.channels] = value

    def run(self, image: np.ndarray | None) -> list[np.ndarray]:
        outputs = self._place_images(image)
        for function, arguments in self._calls:
            function(*arguments)
        return outputs

    def run_timed(self, image: np.ndarray) -> list[float]:
        self._place_images(image)
        times = [time.perf_counter()]
        for function, arguments in self._calls:
            function(*arguments)
            times.append(time.perf_counter())
        return [end - start for start, end in pairwise(times)]

    def _place_images(self, image: np.ndarray | None) -> list[np.ndarray]:
        outputs = {name: _array(shape) for name, shape in self._output_shapes.items()}
        for name, array in (*outputs.items(), *([] if image is None else [(INPUT, image)])):
            tensor = tvm_ffi.from_dlpack(array)
            for arguments, index in self._images[name]:
                arguments[index] = tensor
        return list(outputs.values())


def _array(shape: tuple[int, int, int]) -> np.ndarray:
    return aligned(int(np.prod(shape))).reshape(shape)


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: tvm_ffi.from_dlpack(array) for name, array in arrays.items()}
