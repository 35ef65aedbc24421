"""What one kernel computes, without its values: everything that selects machine code and nothing else.

Kernels work on uint8 buffers `[H + 2·border, W + 2·border, channels]`; H and W are run-time values. The producer of a
buffer writes its border with the pad value of the readers.
"""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class SkipSpec:
    """A residual operand: stored channels, border, and `repeat_channels` factor applied while loading."""

    channels: int
    border: int
    repeat: int = 1


@dataclass(frozen=True)
class OutSpec:
    """An output buffer: stored channels after the pixel shuffle (the real number for an image), and border.

    A `piecewise` quantizer has a coarser step outside its breakpoints; its parameter `bounds` has six numbers, not 3.
    """

    channels: int
    border: int
    piecewise: bool = False
    offset: int = 0
    """The first of the channels in the buffer; 0 unless several kernels write it, each its own channels."""
    joined: int = 0
    """All channels of the buffer where several kernels write it, else 0."""

    @property
    def pitch(self) -> int:
        """Channels from one pixel of the buffer to the next."""
        return self.joined or self.channels


@dataclass(frozen=True)
class ConvSpec:
    """One convolution with its whole epilogue: skips, requantizations, pixel shuffle.

    `in_channels` counts stored channels (a multiple of 4), `out_channels` real ones before the shuffle. With `groups`
    weights are read per group; without, those of a grouped convolution are filled up with zeros. All outputs
    come from one accumulator. Arguments of the kernel, all DLTensors: input, skips, outputs, then the parameters of
    `param_names`. `algorithm` names how it is computed (a key of `kernels.ALGORITHMS`); every one gives the same bytes.
    """

    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    in_channels: int
    in_border: int
    out_channels: int
    outputs: tuple[OutSpec, ...]
    skips: tuple[SkipSpec, ...] = ()
    prelu: bool = False
    shuffle: int = 1
    groups: int = 1
    algorithm: str = "direct"

    @property
    def symbol(self) -> str:
        """A C identifier for the kernel, equal for equal specs."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        kh, kw = self.kernel
        return f"conv{kh}x{kw}_{self.in_channels}_{self.out_channels}_{digest}"

    @property
    def param_names(self) -> tuple[str, ...]:
        """The kernel's parameters in the order of its arguments."""
        names = ["weight", "bias", "shift"]
        names += [f"k{index}" for index in range(len(self.skips))]
        for index, output in enumerate(self.outputs):
            names.append(f"m{index}")
            if self.prelu:
                names.append(f"m_neg{index}")
            names.append(f"bounds{index}")
            if output.border:
                names.append(f"pad{index}")
        if self.algorithm.startswith("winograd"):
            names += ["start", "offset"]
        if self.algorithm.startswith("bits"):
            names.append("lowest")
        return tuple(names)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the outputs for an input of `height` × `width`, borders not counted."""
        rows = (height + 2 * self.padding[0] - self.kernel[0]) // self.stride + 1
        columns = (width + 2 * self.padding[1] - self.kernel[1]) // self.stride + 1
        return rows * self.shuffle, columns * self.shuffle

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest input whose outputs have at least `height` × `width`."""
        rows, columns = (
            max(1, (-(-size // self.shuffle) - 1) * self.stride + self.kernel[axis] - 2 * self.padding[axis])
            for axis, size in enumerate((height, width))
        )
        return rows, columns


@dataclass(frozen=True)
class ImageSpec:
    """Copies an image [H, W, channels] into a buffer of 4-padded channels with a border of `pad` values."""

    channels: int
    border: int

    @property
    def symbol(self) -> str:
        """A C identifier for the kernel, equal for equal specs."""
        return f"image_{self.channels}_{self.border}"

    @property
    def param_names(self) -> tuple[str, ...]:
        """The kernel's parameters in the order of its arguments."""
        return ("pad",) if self.border else ()

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the buffer, border not counted."""
        return height, width

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """The image for a buffer of `height` × `width`."""
        return height, width


KernelSpec = ConvSpec | ImageSpec


def stored(channels: int) -> int:
    """Channels of a buffer that holds `channels` real ones: rounded up to a multiple of 4."""
    return -(-channels // 4) * 4
