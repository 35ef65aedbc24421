"""Weights fitted anew, layer after layer and in closed form, to what a quantized layer really reads.

Every convolution first takes the weights that come nearest, in the sense of least squares, from its quantized operands
to the sums of the float network, so that it also makes good errors of the layers before it. They are then rounded one
input after the other, and the inputs that follow make good what rounding cost. Sources: Frantar et al., "GPTQ", ICLR
2023, for the rounding; Nagel et al., "Up or down?", ICML 2020, §3, for the target under quantized inputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.nn import functional as F

from qsearch.passes.operators import FusedConv
from qsearch.passes.rewrite import module_of
from qsearch.quant.bias import FloatSums, operands
from qsearch.quant.grid import WeightGrid
from qsearch.quant.twin import Twin, TwinConv

POSITIONS = 131072
"""Of the output of a layer that enter its fit; several times the weights that an output has."""
_CHUNK = 8192
_DAMPING = 0.01
_SHRINKS = torch.linspace(1.0, 0.6, 9, dtype=torch.float64)


def refit(
    twin: Twin, crops: Tensor, ridge: float, seed: int = 0, progress: Callable[[int], None] | None = None
) -> None:
    """Fit and round the weights and biases of `twin` on `crops` [N, 3, P, P]; reports how many layers are done.

    `ridge`, as a share of the mean square of an input, holds the weights to those of the float network.
    """
    with torch.no_grad():
        floating = FloatSums(twin.calibration.graph, lambda sums: _at(sums, _positions(sums, seed)))
        floating.run(crops)
        _Fit(twin, floating.kept, ridge, seed, progress).run(crops)


class _Fit(Interpreter):
    def __init__(
        self, twin: Twin, sums: dict[str, Tensor], ridge: float, seed: int, progress: Callable[[int], None] | None
    ) -> None:
        super().__init__(twin.graph)
        self.sums, self.ridge, self.seed, self.progress, self.done = sums, ridge, seed, progress, 0

    def run_node(self, n: Node) -> object:
        module = module_of(self.module, n)  # type: ignore[arg-type]
        if not isinstance(module, TwinConv):
            return super().run_node(n)
        x, *skips = operands(self, n)
        if not module.conv.identity:
            self._fit(module, x, skips)
        self.done += 1
        if self.progress:
            self.progress(self.done)
        return module(x, *skips)

    def _fit(self, module: TwinConv, x: Tensor, skips: list[Tensor]) -> None:
        conv = module.conv
        carried = conv.convolve(x, torch.zeros_like(conv.weight), skips, torch.zeros_like(conv.bias))
        chosen = _positions(carried, self.seed)
        wanted = self.sums[conv.name] - _at(carried, chosen)
        own = conv.weight.detach().flatten(1).double()
        parts = []
        for group, part in enumerate(own.chunk(conv.groups)):
            rows = slice(group * len(part), (group + 1) * len(part))
            channels = slice(group * conv.weight.shape[1], (group + 1) * conv.weight.shape[1])
            moments = _moments(_columns(conv, x, chosen, channels), wanted[:, rows])
            fitted = moments.fitted(part, self.ridge)
            values, scale = _rounded(fitted, moments.square, module.top)
            parts.append((fitted, values, scale, moments.bias(values * scale[:, None])))
        fitted, values, scale, bias = (torch.cat(of) for of in zip(*parts, strict=True))
        grid = WeightGrid(values.to(torch.int8).view_as(conv.weight), scale.float())
        module.restart(fitted.float().view_as(conv.weight), grid, bias.float())


def _positions(value: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random (image, row, column) of a value [N, C, H, W]; all of them where it has few."""
    images, _, height, width = value.shape
    random = torch.Generator().manual_seed(seed)
    flat = torch.randperm(images * height * width, generator=random)[:POSITIONS].sort().values
    return flat // (height * width), flat // width % height, flat % width


def _at(value: Tensor, chosen: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """[positions, C]."""
    image, row, column = chosen
    return value.permute(0, 2, 3, 1)[image, row, column]


def _columns(conv: FusedConv, x: Tensor, chosen: tuple[Tensor, Tensor, Tensor], channels: slice) -> Iterator[Tensor]:
    """What the kernel of one group reads at the positions, [part, Ci · kh · kw], part after part."""
    rows, columns = conv.padding
    border = conv.pad_value.view(1, -1, 1, 1)
    padded = (F.pad(x - border, (columns, columns, rows, rows)) + border)[:, channels]
    height, width = conv.weight.shape[2:]
    windows = padded.unfold(2, height, conv.stride).unfold(3, width, conv.stride).permute(0, 2, 3, 1, 4, 5)
    for image, row, column in zip(*(index.split(_CHUNK) for index in chosen), strict=True):
        yield windows[image, row, column].flatten(1)


@dataclass(frozen=True)
class _Moments:
    """Of inputs x [C] and wanted sums y [R]: means, and what is left of the second moments about them (float64)."""

    mean: Tensor
    square: Tensor
    wanted_mean: Tensor
    cross: Tensor

    def fitted(self, own: Tensor, ridge: float) -> Tensor:
        """The weights [R, C] of least squares, held to `own`."""
        hold = ridge * self.square.diagonal().mean().clamp_min(1e-30) * torch.eye(len(self.square)).double()
        fitted: Tensor = torch.linalg.solve(self.square + hold, self.cross + hold @ own.T).T
        return fitted

    def bias(self, weight: Tensor) -> Tensor:
        """The bias [R] that gives the wanted means."""
        return self.wanted_mean - weight @ self.mean


def _moments(parts: Iterator[Tensor], wanted: Tensor) -> _Moments:
    count, near = len(wanted), None
    wanted_near = wanted.mean(0)
    for x, y in zip(parts, wanted.split(_CHUNK), strict=True):
        if near is None:
            # Close to the mean, so that float32 products keep what is left about it.
            near = x.mean(0)
            total = torch.zeros(len(near), dtype=torch.float64)
            square = torch.zeros(len(near), len(near), dtype=torch.float64)
            cross = torch.zeros(len(near), wanted.shape[1], dtype=torch.float64)
        x, y = x - near, y - wanted_near
        total += x.sum(0)
        square += x.T @ x
        cross += x.T @ y
    assert near is not None
    off = total / count
    return _Moments(near.double() + off, square / count - off[:, None] * off, wanted_near.double(), cross / count)


def _rounded(weight: Tensor, square: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Integers [R, C] and scales [R] for `weight`: of some shrunk ranges the one of least squared error of the sums."""
    rows, reach = len(weight), weight.abs().amax(1).clamp_min(1e-12) / top
    scales = (reach[:, None] * _SHRINKS).float().double()
    repeated = weight.repeat_interleave(len(_SHRINKS), 0)
    values = _compensated(repeated, square, scales.flatten(), top)
    off = values * scales.flatten()[:, None] - repeated
    error = ((off @ square) * off).sum(1).view(rows, -1)
    best = error.argmin(1)
    picked = torch.arange(rows)
    return values.view(rows, len(_SHRINKS), -1)[picked, best], scales[picked, best]


def _compensated(weight: Tensor, square: Tensor, scale: Tensor, top: int) -> Tensor:
    """Round `weight` [R, C] to integers times `scale` [R], inputs of much power first (GPTQ, algorithm 1)."""
    order = square.diagonal().argsort(descending=True)
    hold = _DAMPING * square.diagonal().mean().clamp_min(1e-30) * torch.eye(len(square)).double()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky((square + hold)[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True)
    left, values, block = weight[:, order].clone(), torch.zeros_like(weight), 64
    for start in range(0, len(order), block):
        rows = factor[start : start + block]
        errors = torch.zeros(len(weight), len(rows), dtype=torch.float64)
        for index in range(len(rows)):
            at = start + index
            values[:, at] = (left[:, at] / scale).round().clamp(-top, top)
            errors[:, index] = (left[:, at] - values[:, at] * scale) / rows[index, at]
            within = slice(at, start + len(rows))
            left[:, within] -= errors[:, index, None] * rows[index, within]
        left[:, start + len(rows) :] -= errors @ rows[:, start + len(rows) :]
    return values[:, order.argsort()]
