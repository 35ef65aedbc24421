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
from qsearch.compile.plan import INPUT, OUTPUT, Plan
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
        self._calls: dict[tuple[int, int], _Calls] = {}
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
        same = bool(self._params) and new.steps == self.plan.steps and new.buffers == self.plan.buffers
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
        image, calls = self._prepare(image)
        return calls.run(image)

    def run_timed(self, image: np.ndarray) -> list[tuple[str, float]]:
        """Runs `image` and gives the seconds of every step of the plan, by its name."""
        image, calls = self._prepare(image)
        seconds = calls.run_timed(image)
        return [(step.name, elapsed) for step, elapsed in zip(self.plan.steps, seconds, strict=True)]

    def _prepare(self, image: np.ndarray) -> "tuple[np.ndarray, _Calls]":
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != self.plan.buffers[INPUT].channels:
            raise QsearchError(f"an image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
        if not (image.flags.c_contiguous and image.flags.writeable):
            image = np.array(image, order="C")
        calls = self._calls.get(image.shape[:2]) or self._bind(image.shape[0], image.shape[1])
        threads.use(self._threads)
        return image, calls

    def _bind(self, height: int, width: int) -> "_Calls":
        sizes = self.plan.sizes(height, width)
        needed = self.plan.slot_bytes(height, width)
        if len(needed) > len(self._slots) or any(n > slot.size for n, slot in zip(needed, self._slots, strict=False)):
            have = [slot.size for slot in self._slots] + [0] * len(needed)
            self._calls.clear()
            self._slots = []
            self._slots = [aligned(max(n, old)) for n, old in zip(needed, have, strict=False)]
        arrays = {}
        for name, buffer in self.plan.buffers.items():
            if buffer.slot is not None:
                shape = buffer.shape(sizes[name])
                arrays[name] = self._slots[buffer.slot][: int(np.prod(shape))].reshape(shape)
        if len(self._calls) >= _SIZES_KEPT:
            self._calls.clear()
        shape = self.plan.buffers[OUTPUT].shape(sizes[OUTPUT])
        calls = _Calls(self.plan, self._functions, {**self._tensors, **_tensors(arrays)}, shape)
        self._calls[height, width] = calls
        return calls


class _Calls:
    """The kernel calls for one image size, with all arguments but the two images in place."""

    def __init__(
        self, network: Plan, functions: list[Any], tensors: Mapping[str, Any], output_shape: tuple[int, int, int]
    ) -> None:
        self._output_shape = output_shape
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
            for name in (INPUT, OUTPUT)
        }

    def run(self, image: np.ndarray) -> np.ndarray:
        output = self._place_images(image)
        for function, arguments in self._calls:
            function(*arguments)
        return output

    def run_timed(self, image: np.ndarray) -> list[float]:
        self._place_images(image)
        times = [time.perf_counter()]
        for function, arguments in self._calls:
            function(*arguments)
            times.append(time.perf_counter())
        return [end - start for start, end in pairwise(times)]

    def _place_images(self, image: np.ndarray) -> np.ndarray:
        output = np.empty(self._output_shape, np.uint8)
        for name, array in ((INPUT, image), (OUTPUT, output)):
            tensor = tvm_ffi.from_dlpack(array)
            for arguments, index in self._images[name]:
                arguments[index] = tensor
        return output


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    return {name: tvm_ffi.from_dlpack(array) for name, array in arrays.items()}
