"""How one convolution is spread over work items and lanes."""

from dataclasses import dataclass, replace
from functools import cached_property

from qsearch.compile.packing import Convolution
from qsearch.compile.specs import ConvSpec


@dataclass(frozen=True)
class Gpu:
    """A family of devices: accumulators of one work item, and work items of one group.

    The bytes do not depend on either. Accumulators beside activations and weights must fit a work item's registers.
    """

    accumulators: int
    work_items: int


GPUS: dict[str, Gpu] = {
    # Valhall: 64 registers per thread before it spills, warps of 16.
    "mali": Gpu(accumulators=32, work_items=64),
    # Waves of 64 or 128.
    "adreno": Gpu(accumulators=32, work_items=128),
    "generic": Gpu(accumulators=16, work_items=64),
}


@dataclass(frozen=True)
class Shape:
    """Quads of lanes in the order (sub-pixel, channel), four output channels each, in blocks of one work item."""

    spec: ConvSpec

    @property
    def sub_quads(self) -> int:
        """Quads of one sub-pixel of the shuffle."""
        return -(-self.spec.out_channels // (4 * self.spec.shuffle**2))

    @property
    def quads(self) -> int:
        """All quads."""
        return self.sub_quads * self.spec.shuffle**2

    @property
    def group_quads(self) -> int:
        """Quads of one sub-pixel that read the same input channels."""
        return self.sub_quads // self.spec.groups

    @property
    def read_quads(self) -> int:
        """Quads of input channels that an output channel reads."""
        return self.spec.in_channels // (4 * self.spec.groups)

    @property
    def block_quads(self) -> int:
        """Quads of one work item: every activation that it loads serves all of them."""
        together = self.quads if self.spec.groups == 1 else self.group_quads
        return 2 if together % 2 == 0 else 1

    @property
    def blocks(self) -> int:
        """Blocks of quads."""
        return self.quads // self.block_quads

    def pixels(self, gpu: Gpu) -> int:
        """Neighbouring pixels of one work item: every weight that it loads serves all of them."""
        return gpu.accumulators // (4 * self.block_quads)

    @cached_property
    def order(self) -> list[int | None]:
        """The network's output channel of every lane; `None` for padding."""
        area = self.spec.shuffle**2
        channels = self.spec.out_channels // area
        per_sub = range(4 * self.sub_quads)
        return [lane * area + sub if lane < channels else None for sub in range(area) for lane in per_sub]


def form(spec: ConvSpec, conv: Convolution) -> ConvSpec:
    """`spec` as the OpenCL kernels compute it: a grouped convolution per group where groups are whole quads."""
    inputs, outputs = conv.weight.shape[1], conv.weight.shape[0] // conv.groups
    whole = inputs % 4 == 0 and outputs % (4 * spec.shuffle**2) == 0 and spec.in_channels == inputs * conv.groups
    return replace(spec, groups=conv.groups if whole else 1)
