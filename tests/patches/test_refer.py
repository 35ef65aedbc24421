"""RefER starts as the identity, learns, and finds where the query's texture lies in the reference."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qsearch.errors import QsearchError
from qsearch.patches.conv8 import Conv8
from qsearch.patches.refer import RefER, warp


def features(seed: int, rows: int = 24, columns: int = 20, channels: int = 8) -> Tensor:
    """Smooth random features [1, C, rows, columns]."""
    coarse = torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (rows, columns), mode="bicubic", align_corners=False)


@pytest.mark.parametrize("size", [(24, 20), (7, 5), (1, 1), (4, 9)])
def test_it_starts_as_the_identity(size: tuple[int, int]) -> None:
    query, reference = features(0, *size), features(1, *size)
    assert torch.equal(RefER(8)(query, reference), query)


def test_gradients_reach_every_parameter_and_both_patches() -> None:
    torch.manual_seed(0)
    module = RefER(8)
    query, reference, wanted = features(0).requires_grad_(), features(1).requires_grad_(), features(2)
    losses = []
    for _ in range(3):
        module.zero_grad()
        loss = F.mse_loss(module(query, reference), wanted)
        loss.backward()
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter -= 0.5 * parameter.grad
    assert losses[2] < losses[0]
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert query.grad is not None
    assert reference.grad is not None
    assert reference.grad.abs().sum() > 0


def test_its_convolutions_see_8_bit_values() -> None:
    torch.manual_seed(0)
    conv, x = Conv8(4, 3, 3), torch.randn(2, 4, 9, 9)
    conv(x)
    conv.eval()
    step = conv.top / 127
    on_grid = torch.round(x / step) * step
    torch.testing.assert_close(conv(x), conv(on_grid))
    weight_step = conv.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    weight = torch.round(conv.weight.detach() / weight_step) * weight_step
    torch.testing.assert_close(conv(x), F.conv2d(on_grid, weight, conv.bias, padding=1), atol=1e-5, rtol=1e-5)
    assert conv.top == x.abs().max()


@pytest.mark.parametrize("reduce", [1, 4])
def test_it_finds_a_shift(reduce: int) -> None:
    """The query is the reference eight rows up and four columns to the left."""
    torch.manual_seed(0)
    large = features(3, 40, 40, 16)
    query, reference = large[:, :, 8:32, 4:28], large[:, :, :24, :24]
    module = RefER(16, reduce=reduce, temperature=0.002)
    flow = module.flow(query, reference)[:, :, 4:12, 4:12]
    torch.testing.assert_close(flow.mean((2, 3)), torch.tensor([[8.0, 4.0]]), atol=0.5, rtol=0)
    warped = warp(reference, module.flow(query, reference))
    inner = (slice(None), slice(None), slice(4, 12), slice(4, 12))
    assert (warped - query)[inner].abs().mean() < 0.2 * (reference - query)[inner].abs().mean()


def test_warp_moves_by_whole_and_half_pixels() -> None:
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    flow = torch.zeros(1, 2, 3, 4)
    flow[:, 1] = 1.0
    torch.testing.assert_close(warp(x, flow)[0, 0, 0], torch.tensor([1.0, 2.0, 3.0, 3.0]))
    flow[:, 1], flow[:, 0] = 0.0, 0.5
    torch.testing.assert_close(warp(x, flow)[0, 0, :, 0], torch.tensor([2.0, 6.0, 8.0]))


def test_the_cost_of_a_patch_of_48_pixels() -> None:
    macs = RefER(64).macs(48, 48)
    assert macs["volume"] == 144**2 * 16
    assert macs["fuse"] == 2 * 64 * 64 * 9 * 48**2, "as much as a residual block"
    assert RefER(64).bitops(48, 48) == sum(macs.values()) * 64 + macs["flow"] * (1024 - 64)


def test_mistakes_are_said() -> None:
    with pytest.raises(QsearchError, match="odd size"):
        RefER(8, kernel=2)
    with pytest.raises(QsearchError, match="has a reference of"):
        RefER(8)(features(0), features(1, 8, 8))
