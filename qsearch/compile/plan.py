"""What a compiled network is: kernel calls over planned buffers, and their packed parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch.fx import GraphModule

from qsearch.compile.specs import ConvSpec, ImageSpec, KernelSpec, OutSpec, SkipSpec
from qsearch.errors import QsearchError

if TYPE_CHECKING:
    from qsearch.compile.kernels import Choose

__all__ = ["Buffer", "ConvSpec", "Feature", "ImageSpec", "KernelSpec", "OutSpec", "Plan", "SkipSpec", "Step", "build"]

INPUT = "input"
OUTPUT = "output"
# Kernels compute addresses in 32 bits.
LARGEST_BUFFER_BYTES = 2**31 - 1


@dataclass(frozen=True)
class Buffer:
    """A uint8 tensor `[rows + 2·border, columns + 2·border, channels]`, row-major, without gaps.

    Rows and columns are those of the input image times `scale_num / scale_den` (exactly as `Plan.sizes` says). `slot`
    is the arena slot that holds it, 64-byte aligned; buffers of one slot are never alive together. It is `None` for the
    caller's memory, at any address: `input`, the image in, and `output`, the image out; further outputs and the buffers
    of features are the caller's too, and aligned.
    """

    name: str
    channels: int
    border: int
    scale_num: int
    scale_den: int
    slot: int | None

    def shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """Array shape for a content of `size` = (rows, columns)."""
        return size[0] + 2 * self.border, size[1] + 2 * self.border, self.channels


@dataclass(frozen=True)
class Step:
    """One kernel call. The kernel's DLTensor arguments are exactly `arguments`, in that order."""

    name: str
    spec: KernelSpec
    input: str
    skips: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[str, ...]
    level: int | None = None
    """Where pixels have levels: the one whose pixels of the outputs it computes; None for all pixels."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of buffers, then of parameters, in the kernel's order."""
        return (self.input, *self.skips, *self.outputs, *self.params)


@dataclass(frozen=True)
class Feature:
    """An input that is no image: uint8 [rows, columns, channels] of the image's size, for the caller to put in place.

    It goes to the channels of `buffer` from `first` on, inside the border. Those of the whole buffer from `first` on
    hold `fill` (one value each, also for channels that only fill up a quad) before, in the border too.
    """

    name: str
    buffer: str
    first: int
    channels: int
    fill: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """A network as kernel calls: `steps` in order, over `buffers`, with one-dimensional `params` packed for `isa`.

    Kernels need `params` 64-byte aligned. `halo` is the number of LR pixels around a region that its outputs depend on.
    A network takes an image and gives one; part of one may also take `features` and give several `outputs` (the names
    of their buffers), or have no image.
    """

    isa: str
    buffers: Mapping[str, Buffer]
    steps: tuple[Step, ...]
    params: Mapping[str, np.ndarray]
    halo: int
    upscale: int
    features: tuple[Feature, ...] = ()
    outputs: tuple[str, ...] = (OUTPUT,)
    levels: int = 0
    """How many levels pixels have. A buffer that steps of several levels write holds each pixel's own level."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The buffers that have their content, or a part of it, from the caller."""
        images = (INPUT,) if INPUT in self.buffers else ()
        return (*images, *dict.fromkeys(feature.buffer for feature in self.features))

    @property
    def whole(self) -> bool:
        """Whether it takes an image and nothing else and gives one, as an artefact must."""
        return self.inputs == (INPUT,) and self.outputs == (OUTPUT,) and not self.levels

    @property
    def kernels(self) -> tuple[KernelSpec, ...]:
        """The distinct kernels, in order of first use."""
        return tuple(dict.fromkeys(step.spec for step in self.steps))

    def sizes(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """Rows and columns of every buffer (borders not counted) for an input image of `height` × `width`.

        Raises `QsearchError` for an image that a layer cannot take, or whose skip operands do not match.
        """
        sizes = dict.fromkeys(self.inputs, (height, width))
        for step in self.steps:
            size = step.spec.output_size(*sizes[step.input])
            if min(size) < 1:
                rows, columns = self.minimum_size()
                raise QsearchError(
                    f"an image of {width}x{height} pixels is too small: the network needs at least {columns}x{rows}"
                )
            for output in step.outputs:
                if sizes.setdefault(output, size) != size:
                    raise QsearchError(f"node '{step.name}': '{output}' joins values of different sizes")
            self._check_skips(step, sizes)
        self._check_bytes(sizes, height, width)
        return sizes

    def minimum_size(self) -> tuple[int, int]:
        """The smallest number of rows and of columns (height, width) that every layer can take."""
        needed = dict.fromkeys(self.buffers, (1, 1))
        for step in reversed(self.steps):
            rows, columns = step.spec.input_size(
                max(needed[output][0] for output in step.outputs), max(needed[output][1] for output in step.outputs)
            )
            needed[step.input] = max(needed[step.input][0], rows), max(needed[step.input][1], columns)
        return max(needed[name][0] for name in self.inputs), max(needed[name][1] for name in self.inputs)

    def slot_bytes(self, height: int, width: int) -> list[int]:
        """Bytes of every arena slot for an input image of `height` × `width`."""
        sizes = self.sizes(height, width)
        total = [0] * (1 + max((b.slot for b in self.buffers.values() if b.slot is not None), default=-1))
        for name, buffer in self.buffers.items():
            if buffer.slot is not None:
                total[buffer.slot] = max(total[buffer.slot], int(np.prod(buffer.shape(sizes[name]))))
        return total

    def _check_skips(self, step: Step, sizes: Mapping[str, tuple[int, int]]) -> None:
        if not isinstance(step.spec, ConvSpec):
            return
        rows, columns = sizes[step.outputs[0]]
        for skip in step.skips:
            if sizes[skip] != (rows // step.spec.shuffle, columns // step.spec.shuffle):
                raise QsearchError(f"node '{step.name}': skip operand '{skip}' has another size than the convolution")

    def _check_bytes(self, sizes: Mapping[str, tuple[int, int]], height: int, width: int) -> None:
        for name, buffer in self.buffers.items():
            if int(np.prod(buffer.shape(sizes[name]))) > LARGEST_BUFFER_BYTES:
                raise QsearchError(f"an image of {width}x{height} pixels is too large for one run: use tiles")


def build(program: GraphModule, isa: str, choose: "Choose | None" = None, shrinks: bool = False) -> Plan:
    """The plan of an integer program, with parameters packed for `isa` (a key of `kernels.ISAS`).

    `choose` picks every layer's algorithm, by default `kernels.plain`. With `shrinks` the output may be smaller than
    the image; `upscale` is then 0.

    Raises `QsearchError` naming the node that no kernel can compute.
    """
    from qsearch.compile.kernels import plain
    from qsearch.compile.planning import Planner

    return Planner(program, isa, choose or plain).plan(shrinks)
