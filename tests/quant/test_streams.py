"""Which values are linear, and that another basis changes nothing in float arithmetic."""

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qsearch.models import build
from qsearch.passes import prepare
from qsearch.quant.streams import change_bases, convolution, streams
from tests import tiny
from tests.small_networks import SmallAnchor, SmallJoins, SmallNetwork, random_images, randomized


class Padded(nn.Module):
    """A constant between two convolutions, so that the border of the second one is not filled with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) - 0.3)


class Grouped(nn.Module):
    """A grouped convolution reads a linear value, a plain one writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


NETWORKS = {
    "tiny": (tiny.network, {"head": ["head", "conv2"], "up": ["up"]}),
    "relu after the sum": (lambda: randomized(SmallNetwork()), {}),
    "padded": (Padded, {"first": ["first"]}),
    "grouped": (Grouped, {}),
    "anchor": (lambda: randomized(SmallAnchor()), {}),
    "edsr": (lambda: build("edsr_r2f8_x4").module, {"head": ["head", "blocks.0.conv2", "blocks.1.conv2", "tail"],
                                                   "up.0": ["up.0"], "up.1": ["up.1"]}),
    "srresnet": (lambda: build("srresnet_r2_x2").module, {}),
}  # fmt: skip


def images() -> Tensor:
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) / 255 for image in random_images()])


def bases(graph: GraphModule) -> dict[str, Tensor]:
    """A random basis for every stream."""
    random, found = torch.Generator().manual_seed(0), {}
    for stream in streams(graph):
        reader = next(node for quantizer in stream.quantizers for node in quantizer.users if node.args[0] is quantizer)
        channels = convolution(graph, reader).weight.shape[1]
        found[stream.name] = torch.eye(channels) + 0.3 * torch.randn(channels, channels, generator=random)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_linear_values_are_found(name: str) -> None:
    make, wanted = NETWORKS[name]
    found = streams(prepare(make()))
    assert {stream.name: [str(node.target) for node in stream.writers] for stream in found} == wanted


@pytest.mark.parametrize("name", [name for name, (_, wanted) in NETWORKS.items() if wanted])
def test_another_basis_changes_nothing_in_float(name: str) -> None:
    graph = prepare(NETWORKS[name][0]().eval())
    changed = change_bases(graph, bases(graph))
    with torch.no_grad():
        before, after = graph(images()), changed(images())
    assert float((after - before).abs().max() / before.abs().max()) < 1e-4
    assert any(not torch.equal(value, changed.state_dict()[key]) for key, value in graph.state_dict().items())


def test_joined_values_are_left_alone() -> None:
    """Networks that concatenate and split: whatever is found, nothing changes."""
    graph = prepare(randomized(SmallJoins()))
    with torch.no_grad():
        before, after = graph(images()), change_bases(graph, bases(graph))(images())
    assert float((after - before).abs().max() / before.abs().max()) < 1e-4


def test_the_given_graph_is_not_changed() -> None:
    graph = prepare(tiny.network())
    kept = {name: value.clone() for name, value in graph.state_dict().items()}
    change_bases(graph, bases(graph))
    assert all(torch.equal(value, kept[name]) for name, value in graph.state_dict().items())
