"""Equalization changes the scales of channels and nothing else."""

import pytest
import torch
from torch import nn

from qsearch.passes import prepare
from qsearch.passes.operators import FusedConv
from qsearch.quant import equalize as module
from qsearch.quant.equalize import ChannelRanges, equalize
from tests.small_networks import SmallAnchor, SmallJoins, SmallNetwork, random_images, randomized

NETWORKS = {
    "norm": SmallNetwork,
    "plain": lambda: SmallNetwork(norm=False, relu_after=False),
    "upscale 3": lambda: SmallNetwork(norm=False, upscale=3, res_scale=1.0),
    "anchor": SmallAnchor,
    "joins": SmallJoins,
}


def images() -> torch.Tensor:
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in random_images()])


def ranges(graph: torch.fx.GraphModule) -> ChannelRanges:
    found = ChannelRanges(graph)
    with torch.no_grad():
        found.run(images())
    return found


def uneven(model: nn.Module) -> nn.Module:
    """The same network with channels of very different ranges."""
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        gains = torch.logspace(-1.5, 0.5, conv.out_channels)
        conv.weight.data *= gains.view(-1, 1, 1, 1)
        if conv.bias is not None:
            conv.bias.data *= gains
    return model


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_float_output_stays(monkeypatch: pytest.MonkeyPatch, name: str, strength: float) -> None:
    monkeypatch.setattr(module, "STRENGTH", strength)
    graph = prepare(uneven(randomized(NETWORKS[name]())))
    factors = ranges(graph).factors()
    assert factors
    with torch.no_grad():
        before, after = graph(images()), equalize(graph, factors)(images())
    assert float((after - before).abs().max() / before.abs().max()) < 1e-5


def test_full_strength_gives_all_channels_one_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRENGTH", 1.0)
    graph = prepare(randomized(SmallNetwork(norm=False)))
    found = ranges(equalize(graph, ranges(graph).factors()))
    head = next(node for node in found.largest if str(node.target).startswith("head"))
    largest = found.largest[head]
    assert float(largest.min() / largest.max()) > 0.99


def test_the_given_graph_is_not_changed() -> None:
    graph = prepare(randomized(SmallNetwork()))
    weights = {name: value.clone() for name, value in graph.state_dict().items()}
    factors = ranges(graph).factors()
    changed = equalize(graph, factors)
    assert all(torch.equal(value, weights[name]) for name, value in graph.state_dict().items())
    assert any(not torch.equal(value, weights[name]) for name, value in changed.state_dict().items())


def test_the_image_and_a_clipped_result_keep_their_range() -> None:
    graph = prepare(randomized(SmallAnchor()))
    factors = ranges(graph).factors()
    clipped = [m.name for m in graph.modules() if isinstance(m, FusedConv) and m.activation == "clip"]
    assert clipped
    assert not set(clipped) & factors.keys()
