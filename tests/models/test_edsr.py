"""EDSR: its variants and the key names it is published under."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qsearch.errors import QsearchError
from qsearch.models import load, save_weights
from qsearch.models.edsr import DIV2K_MEAN, EDSR

Image = torch.Tensor


@pytest.mark.parametrize("name", ["edsr_r2f8_x2", "edsr_r1f8_x3", "edsr_r3f4_x4"])
def test_architecture(check_architecture: Callable[[str], Any], name: str) -> None:
    check_architecture(name)


def test_the_baseline_has_its_published_number_of_parameters() -> None:
    assert sum(weight.numel() for weight in EDSR(upscale=4).parameters()) == 1_517_571


@pytest.mark.parametrize(
    "variant",
    [
        {"head_bias": False, "block_bias": False, "relu_after_add": True, "relu_in_upsampler": True},
        {"body_tail": False, "mean_shift": False},
        {},
    ],
)
def test_variants_are_recognised_in_their_own_files(tmp_path: Path, variant: dict[str, Any]) -> None:
    module = EDSR(upscale=3, blocks=2, channels=8, **variant).eval()
    save_weights(tmp_path / "net.safetensors", module, {})
    loaded = load(tmp_path / "net.safetensors")
    image = torch.rand(1, 3, 6, 7)
    torch.testing.assert_close(loaded.module(image), module(image), rtol=0, atol=0)
    assert (loaded.name, loaded.family, loaded.upscale, loaded.white) == ("net", "edsr", 3, 1.0)


class OfficialEDSR(nn.Module):
    """The module tree of the official EDSR-PyTorch repository, whose images are 0…255."""

    def __init__(self, upscale: int, blocks: int, channels: int) -> None:
        super().__init__()

        def conv(after: int) -> nn.Conv2d:
            return nn.Conv2d(channels, after, 3, padding=1)

        def block() -> nn.Module:
            holder = nn.Module()
            holder.body = nn.Sequential(conv(channels), nn.ReLU(), conv(channels))
            return holder

        self.sub_mean, self.add_mean = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.head = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1))
        self.body = nn.Sequential(*[block() for _ in range(blocks)], conv(channels))
        stages = [2, 2] if upscale == 4 else [upscale]
        steps = [step for r in stages for step in (conv(channels * r * r), nn.PixelShuffle(r))]
        self.tail = nn.Sequential(nn.Sequential(*steps), conv(3))
        for layer, sign in ((self.sub_mean, -1), (self.add_mean, 1)):
            layer.weight.data = torch.eye(3).view(3, 3, 1, 1)
            layer.bias.data = sign * 255 * torch.tensor(DIV2K_MEAN)

    def forward(self, x: Image) -> Image:
        x = self.head(self.sub_mean(x))
        y = x
        for block in self.body[:-1]:
            y = block.body(y) + y
        return self.add_mean(self.tail(self.body[-1](y) + x))


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_official_key_names(tmp_path: Path, upscale: int) -> None:
    torch.manual_seed(0)
    official = OfficialEDSR(upscale, blocks=2, channels=8)
    torch.save(official.state_dict(), tmp_path / "official.pt")
    loaded = load(tmp_path / "official.pt")
    image = torch.rand(1, 3, 7, 6)
    assert loaded.upscale == upscale
    torch.testing.assert_close(loaded.module(image) * 255, official(image * 255), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("wrapper", ["params", "params_ema"])
def test_basicsr_key_names(tmp_path: Path, wrapper: str) -> None:
    official = OfficialEDSR(4, blocks=2, channels=8)
    names = {
        "head.0": "conv_first",
        "body.0.body.0": "body.0.conv1",
        "body.0.body.2": "body.0.conv2",
        "body.1.body.0": "body.1.conv1",
        "body.1.body.2": "body.1.conv2",
        "body.2": "conv_after_body",
        "tail.0.0": "upsample.0",
        "tail.0.2": "upsample.2",
        "tail.1": "conv_last",
    }
    state = official.state_dict()
    basicsr = {
        f"module.{new}.{part}": state[f"{old}.{part}"] for old, new in names.items() for part in ("weight", "bias")
    }
    stale = {key: value * 0 for key, value in basicsr.items()}
    torch.save({"params": stale, wrapper: basicsr}, tmp_path / "basicsr.pth")
    image = torch.rand(1, 3, 7, 6)
    result = load(tmp_path / "basicsr.pth").module(image)
    torch.testing.assert_close(result * 255, official(image * 255), rtol=1e-5, atol=1e-3)


def test_a_standard_deviation_is_refused(tmp_path: Path) -> None:
    state = OfficialEDSR(2, 1, 4).state_dict()
    state["sub_mean.weight"] *= 0.5
    torch.save(state, tmp_path / "std.pt")
    with pytest.raises(QsearchError, match=r"sub_mean\.weight divides by a standard deviation"):
        load(tmp_path / "std.pt")
