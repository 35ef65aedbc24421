"""The integer operations, with the semantics that every kernel must reproduce byte for byte.

Tensors between operations are uint8 lattice values, NCHW; accumulators are int32. Zero points are folded into the
biases at lowering, so an operation only multiplies, adds, and at most once multiplies by a float32.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def conv_acc(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    shift: Tensor,
    pad: Tensor,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    groups: int = 1,
) -> Tensor:
    """int32 `(Σ q·weight << shift[c]) + bias[c]`, where the border of `q` is filled with `pad[ci]`.

    q uint8 [N, Ci, H, W]; weight int8 [Co, Ci/groups, kh, kw]; bias, shift int32 [Co]; pad uint8 [Ci].
    The lowering guarantees that no accumulator leaves int32. The shift gives the bias and the skip operands a finer
    unit than the product of two coarse scales.
    """
    padded = pad_image(q, pad, padding)
    # float64 holds every integer sum of uint8 x int8 products of any convolution exactly and uses fast kernels.
    sums = F.conv2d(padded.double(), weight.double(), stride=stride, groups=groups).to(torch.int32)
    return (sums << shift.view(1, -1, 1, 1)) + bias.view(1, -1, 1, 1)


def pad_image(q: Tensor, pad: Tensor, padding: tuple[int, int]) -> Tensor:
    """`q` [N, C, H, W] with a border of `padding` (rows, columns) filled with `pad[c]`."""
    rows, columns = padding
    if rows == 0 and columns == 0:
        return q
    n, c, h, w = q.shape
    out = pad.view(1, -1, 1, 1).expand(n, c, h + 2 * rows, w + 2 * columns).clone()
    out[:, :, rows : rows + h, columns : columns + w] = q
    return out


def add_skip(acc: Tensor, q_skip: Tensor, k: Tensor) -> Tensor:
    """int32 `acc + k[c]·q_skip`: a residual operand enters the accumulator by one integer multiplication."""
    return acc + k.view(1, -1, 1, 1) * q_skip.to(torch.int32)


def requantize(acc: Tensor, m: Tensor, m_neg: Tensor, bounds: Tensor, prelu: bool = False) -> Tensor:
    """uint8 `zp + clip(rint(float32(acc)·m[c]), lo − zp, hi − zp)`, round half to even, then snapped if piecewise.

    m, m_neg float32 [Co]; bounds int32 [3] = (zero_point, lo, hi), or of a piecewise quantizer int32 [6] =
    (zero_point, lo, hi, low_break, high_break, ratio), see `snap`. With `prelu`, negative accumulators use `m_neg`.
    A ReLU is `lo = zero_point`.
    """
    zero_point, lo, hi = bounds[:3].unbind()
    value = acc.to(torch.float32)
    factor = m.view(1, -1, 1, 1)
    if prelu:
        factor = torch.where(acc < 0, m_neg.view(1, -1, 1, 1), factor)
    rounded = torch.round(value * factor)
    q = zero_point + rounded.clamp((lo - zero_point).float(), (hi - zero_point).float()).to(torch.int32)
    return (snap(q, bounds[3:]) if bounds.numel() == 6 else q).to(torch.uint8)


def snap(q: Tensor, pieces: Tensor) -> Tensor:
    """int32 `q`, values outside [low_break, high_break] moved to the nearest of every `ratio`-th beyond; ties go out.

    pieces int32 [3] = (low_break, high_break, ratio), 1 ≤ ratio ≤ 255. The bounds of `requantize` lie on the grid, that
    is at low_break − i·ratio and high_break + j·ratio, so that nothing leaves them.
    """
    low_break, high_break, ratio = pieces.unbind()
    half = ratio // 2
    above = (torch.clamp(q - high_break, min=0) + half) // ratio
    below = (torch.clamp(low_break - q, min=0) + half) // ratio
    return torch.maximum(torch.minimum(q, high_break), low_break) + ratio * (above - below)


def pixel_shuffle(q: Tensor, r: int) -> Tensor:
    """`torch.nn.PixelShuffle(r)` on uint8: channel `oc·r² + dy·r + dx` goes to pixel (dy, dx) of channel `oc`."""
    return F.pixel_shuffle(q, r)


def repeat_channels(q: Tensor, n: int) -> Tensor:
    """Every channel `n` times in a row (`repeat_interleave`); an image repeated r² times is its nearest upsampling."""
    return q.repeat_interleave(n, dim=1)


def concat(tensors: list[Tensor]) -> Tensor:
    """uint8 tensors of one quantizer, joined along the channels."""
    return torch.cat(tensors, dim=1)


def by_level(tensors: list[Tensor], levels: Tensor) -> Tensor:
    """Every pixel from the tensor of its level; uint8 [N, C, H·k, W·k] for levels uint8 [N, 1, H, W], any integer k.

    All tensors are one value on one grid, each requantized from the accumulator of its level.
    """
    _, _, rows, columns = tensors[0].shape
    chosen = levels.repeat_interleave(rows // levels.shape[2], 2).repeat_interleave(columns // levels.shape[3], 3)
    found = tensors[0]
    for level, tensor in enumerate(tensors[1:], 1):
        found = torch.where(chosen == level, tensor, found)
    return found


OPERATIONS = (conv_acc, add_skip, requantize, pixel_shuffle, repeat_channels, concat, by_level)
