"""Small pieces of TIR that every kernel template uses: typed arguments, vector loads and stores, borders."""

from dataclasses import dataclass

from tvm.tirx.script.builder import ir as T

from qsearch.compile.kernels.isa import Expr
from qsearch.compile.kernels.layout import powers_of_two
from qsearch.compile.specs import ConvSpec

ALIGNMENT = 64
WIDEST = 64
_CACHE_LINE = 64


def tensor(name: str, shape: tuple[Expr, ...], dtype: str, aligned: bool = True) -> Expr:
    """An argument of the kernel being built; an unaligned one may start at any address."""
    return T.arg(name, T.buffer(shape, dtype, align=ALIGNMENT if aligned else 1))


def store(buffer: Expr, place: list[Expr], count: int, value: Expr) -> None:
    """Stores a vector of `count` elements at `place`, contiguous in the last dimension."""
    *leading, last = place
    T.buffer_store(buffer, value, [*leading, T.ramp(last, 1, count) if count > 1 else last])


def prefetch(buffer: Expr, place: list[Expr], count: int) -> None:
    """Starts to load `count` bytes from `place` on into the cache."""
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.prefetch")
    *leading, last = place
    for offset in range(0, count, _CACHE_LINE):
        address = T.address_of(buffer[(*leading, last + offset)])
        # To read, to be kept in all levels, data.
        T.evaluate(T.call_llvm_intrin(intrinsic, address, T.int32(0), T.int32(3), T.int32(1), dtype="void"))


def likely(condition: Expr) -> Expr:
    """`condition`, of which LLVM then takes it that it holds: it keeps registers for that branch."""
    intrinsic = T.llvm_lookup_intrinsic_id("llvm.expect")
    return T.call_llvm_pure_intrin(intrinsic, condition, T.IntImm("bool", 1), dtype="bool")


def lanes_of(value: Expr, first: int, count: int) -> Expr:
    """`count` lanes of a vector from `first` on."""
    return T.Shuffle([value], list(range(first, first + count)))


def gather(vectors: list[Expr], length: int, lanes: list[int]) -> Expr:
    """The vector of the given lanes of `vectors` (each of `length`), counted through."""
    bound = [T.Bind(vector) for vector in vectors]
    # TVM refuses a result that is longer than its operands.
    return T.Shuffle(bound * -(-len(lanes) // (length * len(bound))), lanes)


def accumulator_size(spec: ConvSpec, rows: Expr, columns: Expr) -> tuple[Expr, Expr]:
    """Rows and columns of accumulators for an input buffer of `rows` × `columns`, borders included."""
    height, width = (
        (size + 2 * (padding - spec.in_border) - kernel) // spec.stride + 1
        for size, padding, kernel in zip((rows, columns), spec.padding, spec.kernel, strict=True)
    )
    return height, width


@dataclass(frozen=True)
class Register:
    """A vector at a constant offset of a local buffer, which LLVM keeps in a register."""

    buffer: Expr
    offset: int
    lanes: int
    dtype: str = "int32"

    def load(self) -> Expr:
        """The vector."""
        return self.buffer.vload([self.offset], f"{self.dtype}x{self.lanes}")

    def store(self, value: Expr) -> None:
        """Replaces the vector."""
        store(self.buffer, [self.offset], self.lanes, value)


@dataclass(frozen=True)
class Bordered:
    """An output buffer `[rows + 2·border, columns + 2·border, …]` and the values of the border of its `channels`.

    They begin at `offset`; other kernels write the others.
    """

    buffer: Expr
    border: int
    channels: int
    pad: Expr | None
    offset: int = 0

    def write_borders(self, first: Expr, count: Expr, rows: Expr, columns: Expr) -> None:
        """The border beside `count` of all `rows` from `first` on; with the first and the last also above and below."""
        if not self.border:
            return
        with T.serial(count) as dy, T.serial(self.border) as x:
            self._fill(first + dy + self.border, x)
            self._fill(first + dy + self.border, columns + self.border + x)
        for edge, start in ((first == 0, 0), (first + count == rows, rows + self.border)):
            with T.If(edge), T.Then(), T.serial(self.border) as row, T.serial(columns + 2 * self.border) as x:
                self._fill(start + row, x)

    def _fill(self, row: Expr, column: Expr) -> None:
        assert self.pad is not None
        for offset, size in powers_of_two(self.channels, WIDEST):
            dtype = f"uint8x{size}" if size > 1 else "uint8"
            store(self.buffer, [row, column, self.offset + offset], size, self.pad.vload([offset], dtype))
