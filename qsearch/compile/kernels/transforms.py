"""Transforms of exact integer Winograd: matrices, and whether transformed values fit into bytes and sums into int32.

One dimension of a convolution with three taps computes `outputs` results from `outputs + 2` data as
`sums(weights(w) · data(d))`, elementwise in between, with `factor` times the result. F(2,3) is that of Winograd (1980)
and of Lavin and Gray (2016). F(4,3) uses the points 0, 1, -1, i, -i and infinity, and multiplies the complex pair by
Karatsuba's three products, so that data are only added and subtracted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

TAPS = 3
_LARGEST_WEIGHT = 127
_LARGEST_SUM = 2**31 - 1


@dataclass(frozen=True)
class Transform:
    """One dimension. `data` and `sums` work on anything that adds: expressions of a kernel, or numbers."""

    name: str
    outputs: int
    factor: int
    weights: tuple[tuple[int, ...], ...]
    data: Callable[[Sequence[Any]], list[Any]]
    sums: Callable[[Sequence[Any]], list[Any]]

    @property
    def positions(self) -> int:
        """Products per `outputs` results."""
        return len(self.weights)

    @property
    def inputs(self) -> int:
        """Data per `outputs` results."""
        return self.outputs + TAPS - 1

    @cached_property
    def data_matrix(self) -> np.ndarray:
        """int64 [positions, inputs]."""
        return np.stack(self.data(list(np.eye(self.inputs, dtype=np.int64))))

    @cached_property
    def sums_matrix(self) -> np.ndarray:
        """int64 [outputs, positions]."""
        return np.stack(self.sums(list(np.eye(self.positions, dtype=np.int64))))


def _data2(d: Sequence[Any]) -> list[Any]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[3] - d[1]]


def _sums2(m: Sequence[Any]) -> list[Any]:
    return [m[0] + (m[1] + m[2]), (m[1] - m[2]) + m[3]]


def _data4(d: Sequence[Any]) -> list[Any]:
    odd, even = d[1] + d[3], d[2] + d[4]
    real, imaginary = d[1] - d[3], d[2] - d[4]
    return [d[0] - d[4], odd + even, even - odd, real - imaginary, real, imaginary, d[5] - d[1]]


def _sums4(m: Sequence[Any]) -> list[Any]:
    even, odd = m[1] + m[2], m[1] - m[2]
    real, imaginary = (m[3] + m[4]) * 2, (m[3] + m[5]) * 2
    return [m[0] * 4 + (even + real), odd + imaginary, even - real, m[6] * 4 + (odd - imaginary)]


F2 = Transform("f2", 2, 2, ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2)), _data2, _sums2)
F4 = Transform(
    "f4", 4, 4, ((1, 0, 0), (1, 1, 1), (1, -1, 1), (1, 0, -1), (-1, 1, 1), (1, 1, -1), (0, 0, 1)), _data4, _sums4
)


@dataclass(frozen=True)
class Plane:
    """Both dimensions; without a `vertical` transform the three vertical taps are summed directly."""

    vertical: Transform | None
    horizontal: Transform

    @property
    def factor(self) -> int:
        """What multiplies the results; a power of two."""
        return self.horizontal.factor * (self.vertical.factor if self.vertical else 1)

    @cached_property
    def _vertical_data(self) -> np.ndarray:
        return self.vertical.data_matrix if self.vertical else np.ones((1, 1), np.int64)

    @cached_property
    def coefficients(self) -> np.ndarray:
        """Sum of the data coefficients of every position, int64 [vertical positions or 1, horizontal positions].

        It is 0 but where all coefficients are positive: a constant in the data is seen there only.
        """
        return np.outer(self._vertical_data.sum(1), self.horizontal.data_matrix.sum(1))

    def offsets(self, lowest: int) -> np.ndarray:
        """What is added to the transformed data of every position so that they are uint8, shaped as `coefficients`."""
        return np.where(self.coefficients > 0, -lowest * self.coefficients, 128)

    def data_fit(self, lowest: int, highest: int) -> bool:
        """Whether the transforms of all data within the bounds are uint8 values once `offsets` are added."""
        matrix = np.einsum("ia,jb->ijab", self._vertical_data, self.horizontal.data_matrix)
        positive, negative = np.maximum(matrix, 0).sum((2, 3)), np.maximum(-matrix, 0).sum((2, 3))
        offsets = self.offsets(lowest)
        low = positive * lowest - negative * highest + offsets
        high = positive * highest - negative * lowest + offsets
        return bool(low.min() >= 0 and high.max() <= 255)

    def transform(self, weight: np.ndarray) -> np.ndarray:
        """int32 [Co, Ci, vertical positions or taps, horizontal positions] of weights [Co, Ci, 3, 3]."""
        rows = np.array(self.vertical.weights if self.vertical else np.eye(TAPS), np.int32)
        columns = np.array(self.horizontal.weights, np.int32)
        return rows @ weight.astype(np.int32) @ columns.T

    def weights_fit(self, transformed: np.ndarray) -> bool:
        """Whether transformed weights are int8 values, and stay so if negated."""
        return bool(np.abs(transformed).max() <= _LARGEST_WEIGHT)

    def sums_fit(self, transformed: np.ndarray, lowest: int) -> bool:
        """Whether no sum of offset data times transformed weights leaves int32, whatever the order of summation."""
        largest = 255 + np.abs(self.offsets(lowest)) + 128  # instruction sets may add an offset of 128 of their own
        products = np.abs(transformed).sum(1) * largest
        rows = np.abs(self.vertical.sums_matrix) if self.vertical else np.ones((1, TAPS), np.int64)
        outputs = rows @ products @ np.abs(self.horizontal.sums_matrix).T
        return bool(outputs.max() <= _LARGEST_SUM)


PLANES: dict[str, Plane] = {
    "f2xf4": Plane(F2, F4),
    "f4xf4": Plane(F4, F4),
    "f2xf2": Plane(F2, F2),
    "3xf4": Plane(None, F4),
    "3xf2": Plane(None, F2),
}
"""Fastest first, by rule of thumb."""
