"""The order of output channels inside a kernel: which channel every vector lane computes, and where it is stored."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from qsearch.compile.specs import ConvSpec

# Unrolling more register tiles than this costs more compile time than padding every sub-pixel to whole vectors.
_MOST_UNROLLED = 8
_PADDING_ALLOWED = 1.15


@dataclass(frozen=True)
class Run:
    """`count` lanes from `lane` on, stored contiguously at byte `offset` of row `row` of the pixel's outputs."""

    row: int
    offset: int
    lane: int
    count: int


@dataclass(frozen=True)
class Groups:
    """Register tiles of `count` blocks of channels that one loop body can serve: `subs` sub-pixels × `groups`.

    Tile (sub, group) starts at block `first + sub·(blocks per sub-pixel) + group·count`.
    """

    first: int
    count: int
    subs: int = 1
    groups: int = 1


@dataclass(frozen=True)
class Layout:
    """Lanes of a kernel in the order (dy, dx, output channel), so that a pixel shuffle stores contiguous bytes.

    Every sub-pixel occupies `pitch` lanes. Lanes form blocks of `lanes` (one vector), blocks form register tiles;
    `tile(blocks)` is that of the instruction set.
    """

    spec: ConvSpec
    lanes: int
    tile: Callable[[int], tuple[int, int]]

    @property
    def _channels(self) -> int:
        return max(output.channels for output in self.spec.outputs)

    @cached_property
    def pitch(self) -> int:
        """Lanes per sub-pixel: its channels, or whole vectors where that is cheap or saves code."""
        channels, area = self._channels, self.spec.shuffle**2
        whole = -(-channels // self.lanes) * self.lanes
        blocks = -(-channels * area // self.lanes)
        unrolled = blocks / self.tile(blocks)[1]
        return whole if area == 1 or whole <= _PADDING_ALLOWED * channels or unrolled > _MOST_UNROLLED else channels

    @cached_property
    def blocks(self) -> int:
        """Vectors of output channels."""
        return -(-self.pitch * self.spec.shuffle**2 // self.lanes)

    @cached_property
    def _span(self) -> int:
        """Blocks of one sub-pixel, or of all where sub-pixels do not start with a vector."""
        return self.blocks if self.pitch % self.lanes else self.pitch // self.lanes

    @cached_property
    def group(self) -> int:
        """Most blocks of a register tile: as the instruction set wants, but spread evenly over a sub-pixel."""
        if self.spec.groups > 1:
            most = self.tile(self.share)[1]
            return next(count for count in range(min(most, self.share), 0, -1) if self.share % count == 0)
        tiles = -(-self._span // self.tile(self._span)[1])
        return -(-self._span // tiles)

    @property
    def share(self) -> int:
        """Blocks that each group of a grouped convolution has of one sub-pixel."""
        return self.spec.out_channels // (self.spec.shuffle**2 * self.spec.groups * self.lanes)

    def first_channel(self, block: int) -> int:
        """The first input channel that the register tile from `block` on reads; for expressions, too."""
        if self.spec.groups == 1:
            return 0
        return block % self._span // self.share * (self.spec.in_channels // self.spec.groups)

    @property
    def pixels(self) -> int:
        """Pixels of a register tile."""
        return self.tile(self.group)[0]

    @cached_property
    def chunks(self) -> list[Groups]:
        """All register tiles, those of equal code together."""
        span, subs = self._span, self.blocks // self._span
        full = min(output.channels for output in self.spec.outputs) // (self.group * self.lanes)
        # The channels that a skip operand reads follow no simple rule if they are repeated or shuffled.
        if (
            any(skip.repeat > 1 for skip in self.spec.skips)
            or (self.spec.skips and subs > 1)
            or self.pitch % self.lanes
        ):
            return [Groups(first, count) for sub in range(subs) for first, count in self._split(sub * span, 0, span)]
        chunks = [Groups(0, self.group, subs, full)] if full else []
        return chunks + [Groups(first, count, subs) for first, count in self._split(0, full * self.group, span)]

    def _split(self, start: int, first: int, end: int) -> list[tuple[int, int]]:
        return [(start + i, min(self.group, end - i)) for i in range(first, end, self.group)]

    def first_block(self, chunk: Groups, sub: int, group: int) -> int:
        """The first block of one tile of a chunk; for expressions, too."""
        return chunk.first + sub * self._span + group * chunk.count

    @cached_property
    def tiles(self) -> list[tuple[int, int]]:
        """(first block, number of blocks) of every register tile, in the order of blocks."""
        return sorted(
            (self.first_block(chunk, sub, group), chunk.count)
            for chunk in self.chunks
            for sub in range(chunk.subs)
            for group in range(chunk.groups)
        )

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
        spec, r = self.spec.outputs[output], self.spec.shuffle
        channels = spec.channels
        runs: list[Run] = []
        for lane in range(self.lanes):
            sub, channel = divmod(block * self.lanes + lane, self.pitch)
            if sub >= r * r or channel >= channels:
                continue
            row, offset = sub // r, sub % r * spec.pitch + spec.offset + channel
            last = runs[-1] if runs else None
            if last and last.row == row and last.offset + last.count == offset and last.lane + last.count == lane:
                runs[-1] = Run(row, last.offset, last.lane, last.count + 1)
            else:
                runs.append(Run(row, offset, lane, 1))
        return runs

    def skip_channels(self, skip: int, block: int) -> list[int]:
        """The stored channel of skip operand `skip` that every lane of `block` adds; any for a padding lane."""
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
