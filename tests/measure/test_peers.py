"""The peers run the same network: as float32 to a grey level, and quantized by their own tool to a close picture."""

import numpy as np

from qsearch import samples
from qsearch.measure.peers import OnnxRuntime, float_onnx, int8_onnx
from qsearch.models import LoadedModel, load
from qsearch.passes import prepare
from tests.small_networks import SmallNetwork, random_images, randomized


def test_float_onnx_is_the_float_network() -> None:
    """A mean shift, residual blocks with PReLU, an identity convolution and a shuffle."""
    module = randomized(SmallNetwork()).requires_grad_(False)
    model = LoadedModel(module, "small", "custom", 2, 1.0)
    peer = OnnxRuntime(float_onnx(prepare(module), 1.0), threads=1)
    image = random_images(1)[0]
    assert np.abs(peer.run(image).astype(int) - model.run(image)).max() <= 1


def test_int8_onnx_upscales_the_same_picture() -> None:
    model = load("abpn_x3")
    pair = samples.search_pairs(3, 1)[0]
    floating = float_onnx(prepare(model.module), model.white)
    expected = model.run(pair.lr).astype(int)
    assert np.abs(OnnxRuntime(floating, 1).run(pair.lr) - expected).max() <= 1
    quantized = OnnxRuntime(int8_onnx(floating, [pair.lr]), 1).run(pair.lr)
    assert np.abs(quantized - expected).mean() < 2
