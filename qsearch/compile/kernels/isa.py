"""What a kernel template must know of an instruction set."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Expr = Any  # TVM expressions carry their types at run time only


@dataclass(frozen=True)
class Isa:
    """One instruction set: the width of its vectors, how it multiplies bytes, and its features in LLVM's words.

    Operands are vectors of `lanes` quads of bytes. `prepare_weight` turns int8 weights (`int8x4·lanes`) and
    `prepare_activation` uint8 activations (as `int32xlanes`) into what is kept in registers; `dot(acc, activation,
    weight)` adds to every int32 lane the sum of the four products of its quads, exactly. `tile(blocks)` gives the
    register tile, pixels × blocks of `lanes` output channels, for a layer of so many blocks.
    """

    name: str
    lanes: int
    features: tuple[str, ...]
    prepare_weight: Callable[[Expr], tuple[Expr, ...]]
    prepare_activation: Callable[[Expr], tuple[Expr, ...]]
    dot: Callable[[Expr, Sequence[Expr], Sequence[Expr]], Expr]
    tile: Callable[[int], tuple[int, int]]
