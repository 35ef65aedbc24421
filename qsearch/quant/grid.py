"""The lattice of one quantized tensor: which integers it uses and what they mean."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from qsearch.integer.ops import snap

_LARGEST = 255


@dataclass(frozen=True)
class Grid:
    """Lattice integers `lo … hi` that stand for `(q − zero_point)·scale`; at most 2^bits of 0 … 255.

    `pieces` of a piecewise quantizer are (low_break, high_break, ratio): outside the breakpoints only every `ratio`-th
    integer is used (see `qsearch.integer.ops.snap`).
    """

    scale: float
    """A float32 value."""
    zero_point: int
    lo: int
    hi: int
    pieces: tuple[int, int, int] | None = None

    @property
    def bounds(self) -> tuple[int, ...]:
        """What the operation `requantize` takes as `bounds`: three numbers, or six."""
        return self.zero_point, self.lo, self.hi, *(self.pieces or ())

    @property
    def span(self) -> int:
        """Largest minus smallest lattice value: what decides which exact low-bit kernels fit."""
        return self.hi - self.lo

    def clipped(self, lo: float | None, hi: float | None) -> "Grid":
        """The same lattice with real clip bounds (a ReLU is `clipped(0, None)`)."""
        low = self.lo if lo is None else max(self.lo, self._nearest(lo))
        high = self.hi if hi is None else min(self.hi, self._nearest(hi))
        return replace(self, lo=low, hi=max(low, high))

    def _nearest(self, value: float) -> int:
        """The lattice value nearest to a real one."""
        q = self.zero_point + int(np.rint(np.float32(value) / np.float32(self.scale)))
        if self.pieces is None:
            return q
        return int(snap(torch.tensor(q), torch.tensor(self.pieces)))


@dataclass(frozen=True)
class Codes:
    """A grid up to its steps: how many codes lie below, in and above the dense part, and zero's place in it."""

    below: int
    dense: int
    above: int
    zero: int

    @staticmethod
    def of(grid: Grid) -> "Codes":
        """The codes of `grid`; a uniform one is all dense."""
        if grid.pieces is None:
            return Codes(0, grid.span + 1, 0, grid.zero_point - grid.lo)
        low, high, ratio = grid.pieces
        return Codes((low - grid.lo) // ratio, high - low + 1, (grid.hi - high) // ratio, grid.zero_point - low)

    @property
    def largest_ratio(self) -> int:
        """The largest ratio of outer to dense step whose lattice fits in a byte."""
        return max(1, (_LARGEST - self.dense + 1) // max(self.below + self.above, 1))

    def grid(self, scale: float, ratio: int) -> Grid:
        """The grid with these steps."""
        start = self.below * ratio
        end = start + self.dense - 1
        pieces = (start, end, ratio) if self.below + self.above else None
        return Grid(scale, start + self.zero, 0, end + self.above * ratio, pieces)


def activation_grid(lo: float, hi: float, bits: int) -> Grid:
    """The uniform grid of 2^bits values over the real range `lo … hi`, extended to hold an exact zero.

    A range without negative values gets zero point 0. Source: Jacob et al., CVPR 2018, eq. 1 and §3.
    """
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    steps = 2**bits - 1
    scale = float(np.float32((hi - lo) / steps)) or 1.0
    zero_point = int(np.clip(np.rint(-lo / scale), 0, steps))
    return Grid(scale, zero_point, 0, steps)


@dataclass(frozen=True)
class WeightGrid:
    """Signed weights of one convolution: int8 [Co, Ci/groups, kh, kw] and float32 scale per output channel [Co]."""

    values: Tensor
    scale: Tensor

    def dequantize(self) -> Tensor:
        """The float32 weights that the integers stand for."""
        return self.values.float() * self.scale.view(-1, 1, 1, 1)


def weight_grid(weight: Tensor, scale: Tensor, bits: int) -> WeightGrid:
    """Symmetric rounding of `weight` to `−(2^(bits−1)−1) … 2^(bits−1)−1` steps of `scale[c]`, sums kept.

    Every kernel (one output and one input channel) first rounds to nearest; then its cheapest roundings are turned
    until the sum of its taps is right to half a step. Neighbouring pixels are alike, so an error of the sum is seen in
    full where the errors of single taps cancel: at 4 bits this is worth 1 to 2 dB over rounding to nearest.
    """
    top = 2 ** (bits - 1) - 1
    scale = scale.float()
    real = (weight / scale.view(-1, 1, 1, 1)).flatten(0, 1).flatten(1).double()
    values = torch.round(real).clamp(-top, top)
    for _ in range(real.shape[1]):
        error = real - values
        turn = error.sum(1).round().sign().unsqueeze(1)
        gain = torch.where((values + turn).abs() <= top, error * turn, -torch.inf)
        best, tap = gain.max(1)
        rows = ((turn.squeeze(1) != 0) & (best >= -0.5)).nonzero().squeeze(1)
        if not rows.numel():
            break
        values[rows, tap[rows]] += turn[rows, 0]
    return WeightGrid(values.reshape(weight.shape).to(torch.int8), scale)
