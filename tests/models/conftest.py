"""What the tests of every architecture share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import symbolic_trace

from qsearch.models import LoadedModel, build


@pytest.fixture
def check_architecture() -> Callable[[str], LoadedModel]:
    """What each architecture promises: sizes, frozen weights, a torch.fx graph, weights decided by a seed."""

    def check(name: str) -> LoadedModel:
        model = build(name)
        image = torch.rand(2, 3, 9, 11) * model.white
        with torch.no_grad():
            result = model.module(image)
            assert result.shape == (2, 3, 9 * model.upscale, 11 * model.upscale)
            torch.testing.assert_close(symbolic_trace(model.module)(image), result, rtol=0, atol=0)
            torch.testing.assert_close(build(name).module(image), result, rtol=0, atol=0)
            assert not torch.equal(build(name, seed=1).module(image), result)
        assert not model.module.training
        assert not any(weight.requires_grad for weight in model.module.parameters())
        return model

    return check


@pytest.fixture
def randomise() -> Callable[[nn.Module], dict[str, Tensor]]:
    """Give every weight, statistic and buffer of a module its own random value; returns the state dict."""

    def fill(module: nn.Module) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(5)
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) * 0.2 + 0.01)
        return module.state_dict()

    return fill
