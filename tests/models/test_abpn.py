"""ABPN: anchor, clip, and TensorFlow's order of sub-pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from qsearch.models import load, save_weights
from qsearch.models.abpn import ABPN


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_architecture(check_architecture: Callable[[str], Any], upscale: int) -> None:
    assert check_architecture(f"abpn_f8_x{upscale}").white == 255.0


def test_without_its_last_layer_it_repeats_pixels_and_clips() -> None:
    module = ABPN()
    torch.nn.init.zeros_(module.convs[-1].weight)
    torch.nn.init.constant_(module.convs[-1].bias, 10.0)
    image = torch.tensor([[[[3.0, 250.0]]] * 3]).reshape(1, 3, 1, 2)
    expected = F.interpolate(image + 10.0, scale_factor=3, mode="nearest").clamp(0, 255)
    torch.testing.assert_close(module(image), expected, rtol=0, atol=0)


def test_tensorflow_weights_are_reordered(tmp_path: Path) -> None:
    module = ABPN(channels=8)
    save_weights(tmp_path / "ours.safetensors", module, {})
    # depth_to_space reads channel (row·3 + column)·3 + colour; PixelShuffle reads colour·9 + row·3 + column.
    order = [colour * 9 + subpixel for subpixel in range(9) for colour in range(3)]
    state = {key.removeprefix("convs."): value.clone() for key, value in module.state_dict().items()}
    state["6.weight"], state["6.bias"] = state["6.weight"][order], state["6.bias"][order]
    torch.save(state, tmp_path / "tensorflow.pt")
    image = torch.rand(1, 3, 5, 6) * 255
    expected = module(image)
    for file in ("ours.safetensors", "tensorflow.pt"):
        torch.testing.assert_close(load(tmp_path / file).module(image), expected, rtol=0, atol=0)
