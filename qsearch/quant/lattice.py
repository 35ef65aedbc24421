"""One activation quantizer of the lattice with gradients: for its input, its dense step and its outer step.

Forward it shows the very values of the integer network; backward, rounding passes gradients straight through, so that a
step's gradient is the rounding error inside the bounds and the bound itself beyond them (Esser et al., "Learned step
size quantization", ICLR 2020, here also for a piecewise quantizer).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from qsearch.integer.ops import snap
from qsearch.quant.grid import Codes, Grid


class LatticeQuantizer(nn.Module):
    """Fake quantization that starts at `grid` and whose steps are trained as logarithms of what they grew by.

    `log_bounds` stretches everything, `log_breakpoint` the dense part alone, and the ratio of outer to dense step
    follows as an integer. A uniform quantizer has only `log_bounds`. Zero and every part keep their codes. With a
    `unit`, `change` is mean |Q(x) − x| of the last run in that unit, with gradients as well.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.codes = Codes.of(grid)
        self.start = grid
        self.log_bounds = nn.Parameter(torch.zeros(()))
        self.log_breakpoint = nn.Parameter(torch.zeros(())) if grid.pieces else None
        self.unit: float | None = None
        self.change: Tensor | None = None

    def grid(self) -> Grid:
        """The grid as it is now."""
        if self.start.pieces is None or self.log_breakpoint is None:
            return self.codes.grid(_grown(self.start.scale, self.log_bounds), 1)
        wanted = self.start.pieces[2] * math.exp(-self.log_breakpoint.item())
        ratio = min(max(round(wanted), 1), self.codes.largest_ratio)
        return self.codes.grid(_grown(self.start.scale, self.log_bounds + self.log_breakpoint), ratio)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor
        measured = self.unit is not None
        result, change = _Lattice.apply(x, self.log_bounds, self.log_breakpoint, self.grid(), measured)
        self.change = change / self.unit if measured else None
        return result


def _grown(scale: float, log: Tensor) -> float:
    """A float32 value."""
    return float(torch.tensor(scale, dtype=torch.float32) * log.detach().float().exp())


class _Lattice(torch.autograd.Function):
    """`x` on `grid`, and mean |y − x| where `measured`; gradients for x, the logarithm of all steps, and that of the
    dense step alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bounds: Tensor, breakpoint: Tensor | None, grid: Grid, measured: bool
    ) -> tuple[Tensor, Tensor | None]:
        zero = grid.zero_point
        steps = torch.round(x / grid.scale).clamp_(grid.lo - zero, grid.hi - zero)
        if grid.pieces:
            low, high, ratio = grid.pieces
            steps = snap(steps, torch.tensor((low - zero, high - zero, ratio)))
        y = steps.mul_(grid.scale)
        ctx.grid = grid
        ctx.save_for_backward(x, y)
        return y, (y - x).abs_().mean() if measured else None

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        gradient, of_change = gradients
        x, y = ctx.saved_tensors
        grid: Grid = ctx.grid
        lo, hi = (grid.scale * (bound - grid.zero_point) for bound in (grid.lo, grid.hi))
        change = None
        if of_change is not None:
            # |y − x| depends on x through y, as everything does, and directly.
            change = (y - x).sign_().mul_(of_change / y.numel())
            gradient = gradient + change
        passed = gradient * ((x >= lo) & (x <= hi))
        of_x = passed if change is None else passed - change
        if not any(ctx.needs_input_grad[1:3]):
            return of_x, None, None, None, None
        # Inside the bounds y − x, beyond them y.
        of_both = (gradient * y).sum() - (passed * x).sum()
        if grid.pieces is None:
            return of_x, of_both, None, None, None
        start, end = (grid.scale * (bound - grid.zero_point) for bound in grid.pieces[:2])
        # What lies outside the dense part moves with the outer step, measured from the breakpoint.
        beyond = gradient - passed
        in_outer = ((y < start) | (y > end)).to(x.dtype)
        of_outer = (in_outer * (gradient * y - passed * x - beyond * y.clamp(start, end))).sum()
        return of_x, of_both, of_both - of_outer, None, None
