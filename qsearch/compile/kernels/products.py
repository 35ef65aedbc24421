"""The products of one horizontal Winograd position: a register tile of tiles × blocks of output channels, twice."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.emit import Register, store
from qsearch.compile.kernels.isa import Expr, Isa
from qsearch.compile.kernels.transforms import F2, F4, TAPS, Plane

Registers = list[Register]

# Pairs of output rows per task where the vertical dimension is not transformed.
_PAIRS = 2
# Lanes of 32 bits from which a vector is wide.
_WIDE = 16


@dataclass(frozen=True)
class Operands:
    """Where products find their operands and leave their sums, for one horizontal position `j`.

    `data` uint8 and `sums` int32 are the task's own memory. Data of position (j, row) and tile t start at byte
    ((j·data_rows + row)·tiles + t)·pitch; this pass begins at `first_row`. Sums of row r of the pass and block b are
    vector ((t·rows + r)·positions + j)·count + b. Of `weight` int8 and `start` int32, those of this position are the
    vectors from `first_weight` and `first_start` on. `once` is 1.
    """

    data: Expr
    pitch: int
    sums: Expr
    weight: Expr
    start: Expr
    once: Expr
    j: Expr
    first_row: Expr
    first_weight: Expr
    first_start: Expr


class Products:
    """Emits the products of `tiles` neighbouring tiles and `count` blocks of output channels."""

    def __init__(self, isa: Isa, vertical: "Vertical", channels: int, positions: int,
                 tiles: int, count: int, operands: Operands) -> None:  # fmt: skip
        self.isa, self.vertical, self.channels, self.positions = isa, vertical, channels, positions
        self.tiles, self.count, self.at = tiles, count, operands

    def registers(self, start: int | None) -> Registers:
        """New registers with the initial values `start`."""
        lanes = self.isa.lanes
        # One small buffer each: TVM leaves them on the stack, and LLVM then in registers.
        made = [Register(T.alloc_buffer((lanes,), "int32"), 0, lanes) for _ in range(self.size)]
        if start is not None:
            for register, value in zip(made, self.starts(start), strict=True):
                register.store(value)
        return made

    @property
    def size(self) -> int:
        """Registers of a register tile."""
        return self.tiles * self.count

    def starts(self, start: int) -> list[Expr]:
        """The initial values `start` of every register of a tile."""
        lanes = self.isa.lanes
        values = []
        for b in range(self.count):
            vector = self.at.first_start + start * self.count + b
            values.append(T.Bind(self.at.start.vload([vector * lanes], f"int32x{lanes}")))
        return values * self.tiles

    def multiply(self, *terms: tuple[Registers, Expr, Expr]) -> None:
        """Adds to every tile of registers the products of a row of data and a row of weights, over all channels."""
        quads = self.channels // 4
        # More code per turn is no faster: measured.
        together = self.isa.lanes if self.isa.by_lane else 1
        with T.serial(self._turns(quads // together)) as turn:
            self._multiply_quads(terms, turn * together, together)
        if quads % together:
            with T.serial(self._turns(quads % together)) as turn:
                self._multiply_quads(terms, quads // together * together + turn, 1)

    def _turns(self, count: int) -> Expr:
        """`count`, but for narrow vectors LLVM knows only that it is at least 1, so that it leaves the loop as it is.

        With wide ones the loop is small, and unrolling it is faster: measured.
        """
        known = count == 1 or self.isa.lanes >= _WIDE
        return count if known else T.max(self.at.once * count, 1)

    def _multiply_quads(self, terms: tuple[tuple[Registers, Expr, Expr], ...], first: Expr, quads: int) -> None:
        data = [[self._load_data(row, tile, first, quads) for tile in range(self.tiles)] for _, row, _ in terms]
        dot = self.isa.symmetric_dot or self.isa.dot  # no transformed weight is −128
        for quad in range(quads):
            weights: dict[str, list[list[Expr]]] = {}
            for (registers, _, row), activations in zip(terms, data, strict=True):
                if str(row) not in weights:
                    weights[str(row)] = [self._load_weight(row, first + quad, b) for b in range(self.count)]
                for i, register in enumerate(registers):
                    tile, b = divmod(i, self.count)
                    register.store(dot(register.load(), activations[tile][quad], weights[str(row)][b]))

    def _load_data(self, row: Expr, tile: int, first: Expr, quads: int) -> list[list[Expr]]:
        """The operands of `quads` quads of channels, each in all lanes."""
        at, lanes = self.at, self.isa.lanes
        vector = (at.j * self.vertical.data_rows + at.first_row + row) * self.tiles + tile
        place = [vector * at.pitch + first * 4]
        if quads == 1:
            four = T.Bind(T.reinterpret(at.data.vload(place, "uint8x4"), dtype="int32"))
            return [[T.Bind(a) for a in self.isa.prepare_activation(T.broadcast(four, lanes))]]
        loaded = T.reinterpret(at.data.vload(place, f"uint8x{4 * lanes}"), dtype=f"int32x{lanes}")
        prepared = [T.Bind(a) for a in self.isa.prepare_activation(loaded)]
        return [[T.Shuffle([operand], [quad] * lanes) for operand in prepared] for quad in range(quads)]

    def _load_weight(self, row: Expr, quad: Expr, block: int) -> list[Expr]:
        width = self.isa.lanes * 4
        vector = self.at.first_weight + (row * (self.channels // 4) + quad) * self.count + block
        return [T.Bind(w) for w in self.isa.prepare_weight(self.at.weight.vload([vector * width], f"int8x{width}"))]

    def _place(self, row: Expr, i: int) -> Expr:
        tile, b = divmod(i, self.count)
        vector = (tile * self.vertical.rows + row) * self.positions + self.at.j
        return (vector * self.count + b) * self.isa.lanes

    def load(self, row: Expr, i: int) -> Expr:
        """What was stored for register `i` in output row `row`."""
        return self.at.sums.vload([self._place(row, i)], f"int32x{self.isa.lanes}")

    def store(self, row: Expr, i: int, value: Expr) -> None:
        """Leaves the sum of register `i` for output row `row`."""
        store(self.at.sums, [self._place(row, i)], self.isa.lanes, value)


@dataclass(frozen=True)
class Vertical:
    """How the rows of outputs come out of the products, inside the accumulators where that saves memory traffic.

    Each of `passes` passes computes `rows` rows; pass i needs the transformed data from row i·rows on. `starts(s)`
    combines the initial values of the single positions, int32 [positions or taps, …], into `num_starts`.
    """

    passes: int
    rows: int
    data_rows: int
    weight_rows: int
    starts: Callable[[np.ndarray], list[np.ndarray]]
    emit: Callable[[Products], None]

    @cached_property
    def num_starts(self) -> int:
        """Vectors of initial values per block and horizontal position."""
        return len(self.starts(np.zeros((self.weight_rows, 1), np.int32)))


def vertical_of(plane: Plane) -> Vertical:
    """The vertical dimension of `plane`."""
    return {None: _TAPS, F2: _F2, F4: _F4}[plane.vertical]


def _emit_taps(p: Products) -> None:
    first, second = p.registers(0), p.registers(0)
    with T.serial(TAPS) as tap:
        p.multiply((first, tap, tap), (second, tap + 1, tap))
    for i in range(p.size):
        p.store(0, i, first[i].load())
        p.store(1, i, second[i].load())


def _starts2(s: np.ndarray) -> list[np.ndarray]:
    half = (s[0] + s[3]) // 2, (s[0] - s[3]) // 2  # even: weights are doubled there
    return [s[1] + half[0], s[2] + half[1]]


def _emit2(p: Products) -> None:
    a, b = p.registers(0), p.registers(1)
    p.multiply((a, 1, 1), (b, 2, 2))
    for x, y in zip(a, b, strict=True):
        even, odd = T.Bind(x.load() + y.load()), T.Bind(x.load() - y.load())
        x.store(even)
        y.store(odd)
    p.multiply((a, 0, 0), (b, 3, 3))
    for i in range(p.size):
        p.store(0, i, a[i].load())
        p.store(1, i, b[i].load())


def _starts4(s: np.ndarray) -> list[np.ndarray]:
    return [s[0], s[6], s[3] + s[4], s[5] - s[4], s[1], s[2]]


def _emit4(p: Products) -> None:
    a, b = p.registers(0), p.registers(1)
    p.multiply((a, 0, 0), (b, 6, 6))
    for i in range(p.size):
        p.store(0, i, a[i].load() * 4)
        p.store(3, i, b[i].load() * 4)
    a, b = p.registers(2), p.registers(None)
    p.multiply((a, 3, 3))
    for x, y, difference in zip(a, b, p.starts(3), strict=True):
        y.store(x.load() + difference)
    p.multiply((a, 4, 4), (b, 5, 5))
    for i in range(p.size):
        p.store(2, i, a[i].load() * 2)
        p.store(1, i, b[i].load() * 2)
    a, b = p.registers(4), p.registers(5)
    p.multiply((a, 1, 1), (b, 2, 2))
    for i in range(p.size):
        even, odd = T.Bind(a[i].load() + b[i].load()), T.Bind(a[i].load() - b[i].load())
        real, imaginary = T.Bind(p.load(2, i)), T.Bind(p.load(1, i))
        p.store(0, i, p.load(0, i) + (even + real))
        p.store(1, i, odd + imaginary)
        p.store(2, i, even - real)
        p.store(3, i, p.load(3, i) + (odd - imaginary))


_TAPS = Vertical(_PAIRS, 2, 2 * _PAIRS + TAPS - 1, TAPS, lambda s: [s.sum(0)], _emit_taps)
_F2 = Vertical(1, F2.outputs, F2.positions, F2.positions, _starts2, _emit2)
_F4 = Vertical(1, F4.outputs, F4.positions, F4.positions, _starts4, _emit4)
