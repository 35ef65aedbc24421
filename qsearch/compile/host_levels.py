"""Runs a compiled network whose pixels have levels on this machine: every step on the whole image, then selected.

Simple, and as fast as it needs to be for scores; an artefact computes every pixel at its own level alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import tvm_ffi
from numpy.typing import NDArray

from qsearch.compile.alignment import aligned
from qsearch.compile.host import Calls, HostNetwork
from qsearch.compile.plan import INPUT, OUTPUT, Buffer, Plan
from qsearch.compile.specs import ConvSpec, OutSpec
from qsearch.errors import QsearchError

Shape = tuple[int, int, int]


class LevelNetwork(HostNetwork):
    """A compiled program of several levels (see `integer.levels`); otherwise a `HostNetwork`."""

    def run_levels(self, image: np.ndarray, levels: NDArray[np.uint8]) -> np.ndarray:
        """The network's output for `image` whose pixels have `levels`, uint8 [H, W]; `QsearchError` for others."""
        if levels.dtype != np.uint8 or levels.shape != image.shape[:2]:
            raise QsearchError(f"levels must be uint8 {list(image.shape[:2])}, not {levels.dtype} {list(levels.shape)}")
        if levels.size and int(levels.max()) >= self.plan.levels:
            raise QsearchError(f"a pixel has level {levels.max()}, but there are {self.plan.levels} allocations")
        calls = self._calls_for(image.shape[:2])
        assert isinstance(calls, _LevelCalls)
        return calls.run_levels(self._checked(image), levels)

    def _called(self, arrays: dict[str, np.ndarray], shapes: Mapping[str, Shape]) -> Calls:
        return _LevelCalls(self.plan, self._functions, self._tensors, arrays, shapes)


@dataclass(frozen=True)
class _Selected:
    """An output of a step: where the kernel writes it, and the channels of the buffer that it goes to."""

    buffer: Buffer
    computed: np.ndarray
    spec: OutSpec


class _LevelCalls(Calls):
    def __init__(
        self,
        network: Plan,
        functions: list[Callable[..., object]],
        params: Mapping[str, object],
        arrays: Mapping[str, np.ndarray],
        shapes: Mapping[str, Shape],
    ) -> None:
        super().__init__(network, functions, params, arrays, shapes)
        self.steps, self.arrays, self.output_shape = network.steps, arrays, shapes[OUTPUT]
        self.outputs: list[list[_Selected]] = []
        # Steps share what they write to; two outputs of one step may have one shape.
        spare: dict[tuple[Shape, int], np.ndarray] = {}
        for (_, arguments), step in zip(self._calls, network.steps, strict=True):
            self.outputs.append([])
            if step.level is None or not isinstance(step.spec, ConvSpec):
                continue
            used: dict[Shape, int] = {}
            for place, (name, spec) in enumerate(zip(step.outputs, step.spec.outputs, strict=True)):
                shape = shapes[name]
                number = used[shape] = used.get(shape, -1) + 1
                if (shape, number) not in spare:
                    spare[shape, number] = aligned(int(np.prod(shape))).reshape(shape)
                computed = spare[shape, number]
                arguments[1 + len(step.skips) + place] = tvm_ffi.from_dlpack(computed)
                self.outputs[-1].append(_Selected(network.buffers[name], computed, spec))

    def run_levels(self, image: np.ndarray, levels: NDArray[np.uint8]) -> np.ndarray:
        result = np.empty(self.output_shape, np.uint8)
        tensor = tvm_ffi.from_dlpack(image)
        for arguments, index in self._images[INPUT]:
            arguments[index] = tensor
        present = set(np.unique(levels).tolist())
        mask = cache(lambda level, scale, border: _mask(levels == level, scale, border))
        for (function, arguments), step, outputs in zip(self._calls, self.steps, self.outputs, strict=True):
            if step.level is None or step.level in present:
                function(*arguments)
            if step.level in present:
                for out in outputs:
                    kept = result if out.buffer.name == OUTPUT else self.arrays[out.buffer.name]
                    where = mask(step.level, out.buffer.scale_num // out.buffer.scale_den, out.buffer.border)
                    _select(kept, out, where)
        return result


def _mask(at: NDArray[np.bool_], scale: int, border: int) -> NDArray[np.bool_]:
    """[H·scale + 2·border, W·scale + 2·border]; what is written in the border is the same for every level."""
    return np.pad(at.repeat(scale, 0).repeat(scale, 1), border, mode="edge")


def _select(kept: np.ndarray, out: _Selected, where: NDArray[np.bool_]) -> None:
    if out.spec.joined:
        part = np.s_[..., out.spec.offset : out.spec.offset + out.spec.channels]
        np.copyto(kept[part], out.computed[part], where=where[..., None])
        return
    pixel = np.dtype((np.void, kept.shape[2]))  # one copy a pixel, not one a byte
    np.copyto(kept.view(pixel)[..., 0], out.computed.view(pixel)[..., 0], where=where)
