"""What a kernel template must know of an instruction set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Expr = Any  # TVM expressions carry their types at run time only


@dataclass(frozen=True)
class Gather:
    """For an instruction set that multiplies bytes to int16 only, eight lanes at a time.

    `add_pairs(acc, sums)` adds neighbours of an `int16x8` to four int32 lanes. `loaded` is the number of quads of
    activations that are loaded at once: 1, 2 or 4. `tile` is as in `Isa`, for sums that take up registers as long as
    accumulators do; `widened_tile` is for sums that are added to them at once.
    """

    add_pairs: Callable[[Expr, Expr], Expr]
    loaded: int
    tile: Callable[[int], tuple[int, int]]
    widened_tile: Callable[[int], tuple[int, int]]


@dataclass(frozen=True)
class Narrowing:
    """How an instruction set turns several float32 vectors into one vector of bytes.

    `round(value)` is the nearest int32, ties to even, for values below 2^31; below −2^31 it is −2^31. `join(values,
    zero_point)` takes `vectors` of them and the int32 scalar `zero_point` in 0…255 to the uint8 vector of all their
    lanes plus it, saturated, where a sum is at most 255; `lane(vector, lane)` tells where each lane went.
    """

    vectors: int
    round: Callable[[Expr], Expr]
    join: Callable[[Sequence[Expr], Expr], Expr]
    lane: Callable[[int, int], int]


@dataclass(frozen=True)
class Matmul:
    """For an instruction set that multiplies matrices of two rows of eight bytes.

    `multiply(acc, activation, weight)` adds to `int32x4`, a 2 × 2 matrix, the products of the rows of `uint8x16` with
    those of `int8x16`; `tile` is as in `Isa`, of an even number of pixels.
    """

    multiply: Callable[[Expr, Expr, Expr], Expr]
    tile: Callable[[int], tuple[int, int]]


@dataclass(frozen=True)
class Popcount:
    """For an instruction set that counts the ones of every int32 lane.

    `upper_bits(values, width)` are those of `width` int8 lanes, 16 or 32, as an unsigned integer of as many bits.
    """

    upper_bits: Callable[[Expr, int], Expr]


Dot = Callable[[Expr, Sequence[Expr], Sequence[Expr]], Expr]
"""Adds products to accumulators, see `Isa`."""


def as_loaded(operand: Expr) -> tuple[Expr, ...]:
    """What instruction sets that multiply bytes need to prepare of an operand: nothing."""
    return (operand,)


@dataclass(frozen=True)
class Isa:
    """One instruction set: the width of its vectors, how it multiplies bytes, and its features in LLVM's words.

    Operands are vectors of `lanes` quads of bytes. `prepare_weight` turns int8 weights (`int8x4·lanes`) and
    `prepare_activation` uint8 activations (as `int32xlanes`) into what is kept in registers; `dot(acc, activation,
    weight)` adds to every int32 lane the sum of the four products (activation − `offset`)·weight of its quads, exactly.
    `symmetric_dot` does the same faster for weights of at least −127, if it is given.
    Whoever packs parameters makes up for the offset (`packing.compensated`). `tile(blocks)` gives the register tile,
    pixels × blocks of `lanes` output channels, for a layer of so many blocks. `arch` is None for any architecture.
    `by_lane`: one lane of a loaded vector is as good an operand as a quad broadcast from memory. Without a `narrowing`
    every vector becomes bytes alone. `weight_order` says which byte of `lanes` quads of weights comes where in memory.
    Twice `paired_tiles` tiles × 2 blocks of accumulators leave registers for the operands. Without `large_transforms`
    no convolution is transformed by F(4,3) in both dimensions, which takes the most code.
    """

    name: str
    arch: str | None
    lanes: int
    features: tuple[str, ...]
    prepare_weight: Callable[[Expr], tuple[Expr, ...]]
    prepare_activation: Callable[[Expr], tuple[Expr, ...]]
    dot: Dot
    tile: Callable[[int], tuple[int, int]]
    symmetric_dot: Dot | None = None
    offset: int = 0
    by_lane: bool = False
    weight_order: tuple[int, ...] | None = None
    gather: Gather | None = None
    narrowing: Narrowing | None = None
    matmul: Matmul | None = None
    popcount: Popcount | None = None
    paired_tiles: int = 2
    large_transforms: bool = True
    other_tiles: Callable[[int], tuple[tuple[int, int], ...]] = lambda blocks: ()

    def in_memory(self, weight: np.ndarray) -> np.ndarray:
        """Vectors of int8 weights, one after the other, as `prepare_weight` reads them."""
        if self.weight_order is None:
            return weight.ravel()
        return weight.reshape(-1, len(self.weight_order))[:, self.weight_order].ravel()
