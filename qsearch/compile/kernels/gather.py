"""Direct convolution without a dot product instruction: products of few bits are summed up in 16 bits, then widened.

A multiplication of eight bytes gives eight int16 lanes: four output channels × two neighbouring input channels. How
many products a lane can hold follows from the weights and the range of the input values. So fewer bits need fewer
instructions: of 8-bit operands every second product is widened, of 4-bit ones usually every hundredth or none.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels import direct
from qsearch.compile.kernels.emit import Register
from qsearch.compile.kernels.isa import Expr, Isa
from qsearch.compile.packing import Convolution, dense
from qsearch.compile.specs import ConvSpec

_NAME = "gather"
# Activations above 127 are lowered by 128 to be signed bytes.
_OFFSET = 128
_SEVEN_BITS = "7bit"


class Gather(direct.Direct):
    """The arguments of one kernel and the statements that use them; made inside a `T.prim_func`."""

    def __init__(self, spec: ConvSpec, isa: Isa) -> None:
        assert isa.gather is not None
        self._add_pairs = isa.gather.add_pairs
        self._loaded = isa.gather.loaded
        self._quads, self._offset = _parse(spec)
        super().__init__(replace(spec, algorithm=direct.NAME), _as_direct(spec, isa))

    def _accumulate(self, y: Expr, x: Expr, first: Expr, acc: list[list[Register]], *_: object) -> None:
        """All rows of the kernel in one go, as without a narrowing."""
        rows, steps, gathered = self.spec.kernel[0], _steps(self.spec), self._quads
        sums = _Sums(acc, self._add_pairs)
        run = _Run(y, x, first, sums)
        if gathered >= rows * steps:
            sums.clear()
            with T.serial(rows) as ky:
                self._multiply(run, ky, 0, steps)
            sums.widen()
            return
        part = max(gathered, self._loaded)
        with T.serial(rows) as ky:
            with T.serial(steps // part) as group:
                self._gather(run, ky, group * part, part)
            left = steps % part
            if left:
                self._gather(run, ky, steps - left, left)

    def _gather(self, run: "_Run", ky: Expr, start: Expr, quads: int) -> None:
        """Adds the products of `quads` quads of a kernel row from quad `start` on to the accumulators."""
        if self._quads < self._loaded:
            pieces = [(0, quads)] if quads == self._loaded else [(step, 1) for step in range(quads)]
            for step, size in pieces:
                self._multiply_widened(run, ky, start + step, size)
            return
        run.sums.clear()
        self._multiply(run, ky, start, quads)
        run.sums.widen()

    def _multiply_widened(self, run: "_Run", ky: Expr, step: Expr, quads: int) -> None:
        """The same for quads that one load brings, when even fewer fit in 16 bits."""
        vectors = self._load_pixels(run, ky, step, quads)
        gathered = min(self._quads, quads)
        for first in range(0, 2 * quads, 2 * gathered):
            pairs = range(first, first + 2 * gathered)
            activations = [[_broadcast(vector, pair) for pair in pairs] for vector in vectors]
            for b in range(len(run.sums.acc[0])):
                weights = [self._weight(run, ky, step, pair, b) for pair in pairs]
                for p, activation in enumerate(activations):
                    products = [w * a for w, a in zip(weights, activation, strict=True)]
                    run.sums.widen_one(p, b, sum(products[1:], products[0]))

    def _multiply(self, run: "_Run", ky: Expr, start: Expr, quads: int) -> None:
        """Adds the products of `quads` quads of a kernel row from quad `start` on to the short sums."""
        whole = quads // self._loaded
        if whole:
            with T.serial(whole) as chunk:
                self._multiply_loaded(run, ky, start + chunk * self._loaded, self._loaded)
        for step in range(whole * self._loaded, quads):
            self._multiply_loaded(run, ky, start + step, 1)

    def _multiply_loaded(self, run: "_Run", ky: Expr, step: Expr, quads: int) -> None:
        """The same for quads that one load brings."""
        vectors = self._load_pixels(run, ky, step, quads)
        for pair in range(2 * quads):
            activations = [_broadcast(vector, pair) for vector in vectors]
            for b in range(len(run.sums.acc[0])):
                weight = self._weight(run, ky, step, pair, b)
                for p, activation in enumerate(activations):
                    run.sums.add(p, b, weight * activation)

    def _weight(self, run: "_Run", ky: Expr, step: Expr, pair: int, block: int) -> Expr:
        """The weights of `block` for pair `pair` of input channels from quad `step` on: int16x8."""
        steps, count = _steps(self.spec), len(run.sums.acc[0])
        quad, half = divmod(pair, 2)
        vector = run.first * (self.spec.kernel[0] * steps) + (ky * steps + step + quad) * count + block
        return T.Bind(T.cast(self.epilogue.weight.vload([vector * 16 + half * 8], "int8x8"), "int16x8"))

    def _load_pixels(self, run: "_Run", ky: Expr, step: Expr, quads: int) -> list[Expr]:
        """Signed bytes of `quads` quads from `step` on of every pixel, as int16 lanes of two."""
        spec = self.spec
        top, left = (spec.in_border - padding for padding in spec.padding)
        rows, column = run.y * spec.stride + ky + top, run.x * spec.stride + left
        return [self._load_pairs([rows, column + p * spec.stride, step * 4], quads) for p in range(len(run.sums.acc))]

    def _load_pairs(self, place: list[Expr], quads: int) -> Expr:
        loaded = T.reinterpret(self.source.vload(place, f"uint8x{4 * quads}"), dtype=f"int16x{2 * quads}")
        if self._offset:
            loaded = T.bitwise_xor(loaded, T.broadcast(T.int16(-0x7F80), 2 * quads))
        return T.Bind(loaded)


class _Sums:
    """An int16 vector beside every int32 accumulator: eight lanes, whose neighbours belong to one int32 lane."""

    def __init__(self, acc: list[list[Register]], add_pairs: Callable[[Expr, Expr], Expr]) -> None:
        self.acc, self._add_pairs = acc, add_pairs
        pixels, count = len(acc), len(acc[0])
        local = T.alloc_buffer((pixels * count * 8,), "int16", scope="local")
        self._short = [[Register(local, (p * count + b) * 8, 8, "int16") for b in range(count)] for p in range(pixels)]

    def clear(self) -> None:
        """Starts sums at zero."""
        for register in (register for row in self._short for register in row):
            register.store(T.broadcast(T.int16(0), 8))

    def add(self, pixel: int, block: int, products: Expr) -> None:
        """Adds eight products."""
        register = self._short[pixel][block]
        register.store(register.load() + products)

    def widen(self) -> None:
        """Adds the sums to the accumulators."""
        for p, row in enumerate(self._short):
            for b, register in enumerate(row):
                self.widen_one(p, b, register.load())

    def widen_one(self, pixel: int, block: int, sums: Expr) -> None:
        """Adds eight sums to their accumulator."""
        wide = self.acc[pixel][block]
        wide.store(self._add_pairs(wide.load(), sums))


@dataclass(frozen=True)
class _Run:
    """A register tile: its first pixel (y, x), its first block of channels, its sums."""

    y: Expr
    x: Expr
    first: Expr
    sums: _Sums


def _broadcast(pairs: Expr, index: int) -> Expr:
    """One pair of bytes of a vector, four times: int16x8."""
    # TVM refuses a result that is longer than its operands.
    bytes_ = T.reinterpret(T.Shuffle([pairs, pairs], [index] * 4), dtype="int8x8")
    return T.Bind(T.cast(bytes_, "int16x8"))


def _steps(spec: ConvSpec) -> int:
    """Quads of input channels in a kernel row."""
    return spec.kernel[1] * spec.in_channels // 4


def _parse(spec: ConvSpec) -> tuple[int, int]:
    """Quads that are gathered before they are widened, and what is subtracted from activations."""
    _, quads, *seven_bits = spec.algorithm.split(":")
    return int(quads), 0 if seven_bits else _OFFSET


def _as_direct(spec: ConvSpec, isa: Isa) -> Isa:
    """`isa` with the register tile and the activations of this kernel."""
    assert isa.gather is not None
    quads, offset = _parse(spec)
    tile = isa.gather.widened_tile if quads < isa.gather.loaded else isa.gather.tile
    return replace(isa, tile=tile, offset=offset, narrowing=None)


def _groups(spec: ConvSpec) -> list[int]:
    """The numbers of quads that may be gathered, largest first: the whole kernel, a row, equal parts of a row."""
    steps = _steps(spec)
    parts = [part for part in range(steps - steps % 4, 0, -4) if steps // 4 * 4 % part == 0]
    return list(dict.fromkeys([spec.kernel[0] * steps, steps, *parts, 2, 1]))


def most_quads(spec: ConvSpec, conv: Convolution) -> int | None:
    """The most quads whose products fit in 16 bits, whatever the input values are; None if not even those of one."""
    offset = _OFFSET if conv.values[1] > 127 else 0
    weight = dense(conv.weight, conv.groups, spec.in_channels).astype(np.int64)
    outputs, channels, rows, columns = weight.shape
    # A lane sums two of the four products of every quad.
    quads = weight.transpose(0, 2, 3, 1).reshape(outputs, rows * columns * channels // 4, 2, 2).transpose(0, 3, 2, 1)
    ends = [quads * (value - offset) for value in conv.values]
    largest, smallest = np.maximum(*ends).sum(axis=2), np.minimum(*ends).sum(axis=2)
    for group in _groups(spec):
        row = _steps(spec) if group < rows * _steps(spec) else rows * _steps(spec)
        starts = [start + part for start in range(0, rows * _steps(spec), row) for part in range(0, row, group)]
        fits = np.add.reduceat(largest, starts, axis=2).max() < 2**15
        if fits and np.add.reduceat(smallest, starts, axis=2).min() >= -(2**15):
            return group
    return None


def forms(spec: ConvSpec, isa: Isa, conv: Convolution) -> list[ConvSpec]:
    """See `Algorithm.forms`."""
    quads = most_quads(spec, conv) if isa.gather and not direct.in_groups(spec, isa, conv) else None
    if quads is None:
        return []
    suffix = "" if conv.values[1] > 127 else f":{_SEVEN_BITS}"
    # Sums of few products may be worth less than the registers that they take.
    return [replace(spec, algorithm=f"{_NAME}:{count}{suffix}") for count in dict.fromkeys((quads, 1))]


def kernel(spec: ConvSpec, isa: Isa) -> Gather:
    """See `Algorithm.kernel`."""
    return Gather(spec, isa)


def pack(spec: ConvSpec, isa: Isa, conv: Convolution) -> dict[str, np.ndarray]:
    """See `Algorithm.pack`."""
    return direct.pack(replace(spec, algorithm=direct.NAME), _as_direct(spec, isa), conv)
