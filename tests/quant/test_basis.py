"""The basis that calibration chooses: less noise from the same bits."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qsearch.passes import prepare
from qsearch.quant.basis import find_bases
from qsearch.quant.streams import change_bases
from tests import tiny
from tests.small_networks import random_images

STEPS = 15


def images() -> list[Tensor]:
    return [torch.from_numpy(image).permute(2, 0, 1)[None] / 255 for image in random_images()]


def noise(graph: GraphModule, target: str) -> float:
    """What 4-bit rounding of everything that the quantizer `target` reads does to the output, root mean square."""
    rounded: list[Tensor] = []

    def to_steps(_: nn.Module, given: tuple[Tensor, ...], value: Tensor) -> Tensor:
        step = (value.max() - value.min()) / STEPS
        rounded.append(torch.round(value / step) * step)
        return rounded[-1]

    differences = []
    with torch.no_grad():
        for image in images():
            before = graph(image)
            handle = graph.get_submodule(target).register_forward_hook(to_steps)
            differences.append(float((graph(image) - before).square().mean()))
            handle.remove()
    return float(np.sqrt(np.mean(differences)))


def lopsided() -> nn.Module:
    """Two values, each with one strong channel that the output needs no more than the weak ones."""
    module = tiny.network()
    with torch.no_grad():
        module.head.weight[0] *= 20
        module.conv1.weight[:, 0] /= 20
        module.up.weight[:, 0] /= 20
        module.up.weight[:4] *= 20
        module.tail.weight[:, 0] /= 20
    return module


@pytest.mark.parametrize("target", ["quantizer_up_input", "quantizer_tail_input"])
def test_the_same_bits_make_less_noise(target: str) -> None:
    graph = prepare(lopsided())
    changed = change_bases(graph, find_bases(graph, images()))
    assert noise(changed, target) < 0.8 * noise(graph, target)


def test_the_same_seed_gives_the_same_bases() -> None:
    graph = prepare(tiny.network())
    first, second, other = (find_bases(graph, images(), seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("level", [0.0, float("nan")])
def test_pictures_that_tell_nothing_give_no_basis(level: float) -> None:
    module = tiny.network()
    nn.init.zeros_(module.head.bias)
    graph = prepare(module)
    assert "head" not in find_bases(graph, [torch.full((1, 3, 16, 16), level)])
