"""ABPN: anchor, clip, and TensorFlow's order of sub-pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from qsearch.allocation import uniform
from qsearch.images import save_image
from qsearch.integer import ops
from qsearch.models import build, load, save_weights
from qsearch.models.abpn import ABPN, RESIDUALS
from qsearch.network import CalibratedNetwork
from qsearch.training import TrainingSettings, train
from tests.small_networks import random_images


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


@pytest.mark.parametrize("residual", RESIDUALS)
def test_every_residual_is_kept_by_its_checkpoint_and_has_an_integer_network(residual: str, tmp_path: Path) -> None:
    model = build(f"abpn_{residual}_f8_x3")
    save_weights(tmp_path / "net.safetensors", model.module, {})
    loaded = load(tmp_path / "net.safetensors")
    assert (loaded.family, loaded.module.residual) == ("abpn", residual)
    image = random_images(1)[0]
    assert (loaded.run(image) == model.run(image)).all()
    network = CalibratedNetwork.make(loaded, random_images())
    result = network.program(uniform(network.sites, 8, 8))(torch.from_numpy(image).permute(2, 0, 1)[None])
    expected = torch.from_numpy(model.run(image)).permute(2, 0, 1)[None]
    assert float((result.float() - expected.float()).abs().mean()) < 2


def test_residuals_are_what_they_are_called() -> None:
    image = torch.rand(1, 3, 6, 7) * 255
    corrections = {}
    for residual in RESIDUALS:
        module = build(f"abpn_{residual}_f8_x3").module
        torch.nn.init.zeros_(module.convs[6].weight)
        torch.nn.init.zeros_(module.convs[6].bias)
        corrections[residual] = module(image)
    nearest = F.interpolate(image, scale_factor=3, mode="nearest")
    torch.testing.assert_close(corrections["anchor"], nearest)
    torch.testing.assert_close(corrections["nearest"], nearest)
    inner = (..., slice(3, -3), slice(3, -3))
    bilinear = F.interpolate(image, scale_factor=3, mode="bilinear", align_corners=False)
    torch.testing.assert_close(corrections["bilinear"][inner], bilinear[inner])
    for residual in ("none", "feature"):
        assert not corrections[residual].any()


def test_training_leaves_the_interpolation_alone(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.png", random_images(1, 48, 48)[0])
    model = build("abpn_bilinear_f8_x3")
    settings = TrainingSettings(iterations=2, batch=1, patch=8)
    trained = load(train(model, [tmp_path / "images"], tmp_path / "run", settings).weights)
    assert torch.equal(trained.module.bilinear.weight, model.module.bilinear.weight)
    assert not torch.equal(trained.module.convs[6].weight, model.module.convs[6].weight)


def test_the_clip_is_part_of_the_anchors_sum() -> None:
    """The integer network rounds the picture once, to whole grey levels, whatever the sum beyond black and white."""
    network = CalibratedNetwork.make(load("abpn_x3"), random_images())
    program = network.program(uniform(network.sites, 8, 8))
    *_, shuffle, _ = program.graph.nodes
    last = shuffle.args[0]
    assert last.target is ops.requantize
    assert (last.meta["scale"], last.meta["zero_point"]) == (1.0, 0)
    assert last.args[0].target is ops.add_skip  # the anchor enters the accumulator
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat_interleave(8, 2).repeat_interleave(8, 3)
    values = torch.unique(program(ramp.expand(1, 3, -1, -1).contiguous()))
    assert len(values) >= 250
    assert (values.min(), values.max()) == (0, 255)
