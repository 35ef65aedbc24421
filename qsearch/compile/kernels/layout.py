"""The order of output channels inside a kernel: which channel every vector lane computes, and where it is stored."""

from dataclasses import dataclass
from functools import cached_property

from qsearch.compile.specs import ConvSpec


@dataclass(frozen=True)
class Run:
    """`count` lanes from `lane` on, stored contiguously at byte `offset` of row `row` of the pixel's outputs."""

    row: int
    offset: int
    lane: int
    count: int


@dataclass(frozen=True)
class Layout:
    """Lanes of a kernel in the order (dy, dx, output channel), so that a pixel shuffle stores contiguous bytes.

    Every sub-pixel occupies `pitch` lanes, the channels of the widest output; lanes are grouped in blocks of `lanes`
    (one vector), and blocks in groups of `group` (the register tile).
    """

    spec: ConvSpec
    lanes: int
    group: int

    @cached_property
    def pitch(self) -> int:
        """Lanes per sub-pixel."""
        return max(output.channels for output in self.spec.outputs)

    @cached_property
    def blocks(self) -> int:
        """Vectors of output channels."""
        return -(-self.pitch * self.spec.shuffle**2 // self.lanes)

    @cached_property
    def groups(self) -> list[tuple[int, int]]:
        """(first block, number of blocks) of every register tile."""
        return [(first, min(self.group, self.blocks - first)) for first in range(0, self.blocks, self.group)]

    @cached_property
    def uniform(self) -> bool:
        """Whether every group looks the same but for a constant offset, so that one loop body serves all."""
        span = self.group * self.lanes
        whole = all(output.channels == self.pitch for output in self.spec.outputs) and self.pitch % span == 0
        plain = all(skip.repeat == 1 and skip.channels == self.pitch for skip in self.spec.skips)
        return whole and plain and (self.spec.shuffle == 1 or not self.spec.skips)

    @cached_property
    def order(self) -> list[int | None]:
        """The network's channel of every lane; `None` for a lane that only pads."""
        area = self.spec.shuffle**2
        real = self.spec.out_channels // area
        channels: list[int | None] = [
            channel * area + sub if channel < real else None for sub in range(area) for channel in range(self.pitch)
        ]
        return channels + [None] * (self.blocks * self.lanes - len(channels))

    def runs(self, output: int, block: int) -> list[Run]:
        """Where the lanes of `block` are stored in `output`; padding lanes are stored only where bytes exist."""
        channels, r = self.spec.outputs[output].channels, self.spec.shuffle
        runs: list[Run] = []
        for lane in range(self.lanes):
            sub, channel = divmod(block * self.lanes + lane, self.pitch)
            if sub >= r * r or channel >= channels:
                continue
            row, offset = sub // r, sub % r * channels + channel
            last = runs[-1] if runs else None
            if last and last.row == row and last.offset + last.count == offset and last.lane + last.count == lane:
                runs[-1] = Run(row, last.offset, last.lane, last.count + 1)
            else:
                runs.append(Run(row, offset, lane, 1))
        return runs

    def skip_channels(self, skip: int, block: int) -> list[int]:
        """The stored channel of skip operand `skip` that every lane of `block` adds (any channel for a padding lane)."""
        lanes = self.order[block * self.lanes : (block + 1) * self.lanes]
        repeat = self.spec.skips[skip].repeat
        sources = [None if channel is None else channel // repeat for channel in lanes]
        anything = next((source for source in sources if source is not None), 0)
        return [anything if source is None else source for source in sources]


def powers_of_two(count: int, largest: int) -> list[tuple[int, int]]:
    """`count` split into (offset, size) with sizes that are powers of two, at most `largest`."""
    pieces, offset = [], 0
    size = largest
    while offset < count:
        while size > count - offset:
            size //= 2
        pieces.append((offset, size))
        offset += size
    return pieces
