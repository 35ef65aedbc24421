"""SRResNet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qsearch.models import load, save_weights
from qsearch.models.srresnet import SRResNet


@pytest.mark.parametrize("name", ["srresnet_r1_x2", "srresnet_r2_x4", "srgan_r1f8_x4", "srresnet_r1f8h3_x2"])
def test_architecture(check_architecture: Callable[[str], Any], name: str) -> None:
    check_architecture(name)


def test_round_trip_keeps_the_statistics(tmp_path: Path, randomise: Callable[[nn.Module], Any]) -> None:
    module = SRResNet(upscale=3, blocks=2, channels=8, head=3).eval()
    randomise(module)
    save_weights(tmp_path / "net.safetensors", module, {})
    loaded = load(tmp_path / "net.safetensors")
    image = torch.rand(1, 3, 6, 7)
    assert (loaded.family, loaded.upscale) == ("srresnet", 3)
    torch.testing.assert_close(loaded.module(image), module(image), rtol=0, atol=0)
