"""What a user relies on: the prepared graph computes the same picture, and every quantized place has a name."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torch.nn import functional as F

from qsearch.errors import QsearchError
from qsearch.models import build
from qsearch.passes import PIPELINE, FusedConv, normalize, prepare, sites, trace
from qsearch.passes.operators import SelectChannels
from qsearch.passes.trace import _export
from tests.small_networks import SmallAnchor, SmallJoins, SmallNetwork, randomized

NETWORKS = [
    SmallNetwork(),
    SmallNetwork(norm=False, relu_after=False, upscale=3),
    SmallNetwork(res_scale=1.0, relu_after=False),
    SmallAnchor(),
    SmallJoins(),
]


@pytest.mark.parametrize("index", range(len(NETWORKS)))
def test_every_pass_keeps_the_float_output(index: int) -> None:
    model = randomized(copy.deepcopy(NETWORKS[index]))
    x = torch.rand(2, 3, 20, 28)
    expected = model(x)
    graph = trace(model)
    for run_pass in PIPELINE:
        graph = run_pass(graph)
        error = (graph.eval()(x) - expected).abs().max() / expected.abs().max()
        assert error < 1e-5, f"{run_pass.__name__} changes the output by {error:.2e}"


class Divided(nn.Module):
    """A value that is split in some way, its parts swapped and joined, beside a channel of the image."""

    def __init__(self, divide: Callable[[torch.Tensor], Sequence[torch.Tensor]]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(17, 12, 3, padding=1)
        self.act, self.shuffle = nn.PReLU(8), nn.PixelShuffle(2)
        self.divide = divide

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = self.act(self.first(x) + 0.5)
        first, second = self.divide(value)
        return self.shuffle(self.last(torch.cat([second, first, value, x[:, 1:2]], 1)))


@pytest.mark.parametrize("traced", [trace, _export])
@pytest.mark.parametrize(
    "divide",
    [
        lambda y: torch.split(y, [3, 5], 1),
        lambda y: y.split(4, dim=1),
        lambda y: torch.chunk(y, 2, 1),
        lambda y: (y[:, :-2], y[:, 6:]),
    ],
)
def test_split_values_become_convolutions_of_their_own(
    divide: Callable[[torch.Tensor], Sequence[torch.Tensor]], traced: Callable[[nn.Module], GraphModule]
) -> None:
    model = randomized(Divided(divide))
    graph = traced(model)
    for run_pass in PIPELINE:
        graph = run_pass(graph)
    x = torch.rand(1, 3, 11, 13)
    torch.testing.assert_close(graph(x), model(x), rtol=0, atol=1e-5)
    assert not any(isinstance(module, SelectChannels) for module in graph.modules())


def test_the_users_model_is_not_changed() -> None:
    model = randomized(SmallNetwork())
    before = copy.deepcopy(model.state_dict())
    prepare(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(isinstance(module, FusedConv) for module in model.modules())


def test_sites_name_every_conv_input_weight_and_skip_first_and_last_included() -> None:
    found = {site.name: site for site in sites(prepare(randomized(SmallNetwork())))}
    for conv in ("head", "body.0.conv1", "body.0.conv2", "body.1.conv1", "body.1.conv2", "up", "tail"):
        assert found[f"{conv}.weight"].kind == "weight"
        assert found[f"{conv}.input"].kind == "input"
    assert found["body.0.conv2.skip"].kind == found["body.1.conv2.skip"].kind == "skip"
    assert found["head.input"].choices == (8,), "the uint8 image keeps its 8 bits"
    assert len([site for site in found.values() if site.kind == "skip"]) == 4, "two blocks and both global operands"


def test_a_sum_that_ends_in_a_convolution_needs_no_identity() -> None:
    class Tailed(SmallNetwork):
        def __init__(self) -> None:
            super().__init__(relu_after=False)
            self.body.append(nn.Conv2d(8, 8, 3, padding=1))

    graph = prepare(randomized(Tailed()))
    assert not any(conv.identity for conv in graph.modules() if isinstance(conv, FusedConv))


def test_torch_export_gives_the_same_sites_and_output() -> None:
    model = randomized(SmallNetwork())
    graph = _export(model)
    for run_pass in PIPELINE:
        graph = run_pass(graph)
    x = torch.rand(1, 3, 21, 30)
    assert torch.allclose(graph(x), model(x), atol=1e-5)
    names = {s.name for s in sites(prepare(model)) if "identity" not in s.name}
    assert names <= {s.name for s in sites(graph)}


def test_data_dependent_python_falls_back_to_export() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[1] != 3:
                raise ValueError("three channels please")
            return self.conv(x)

    x = torch.rand(1, 3, 9, 11)
    model = Checked().eval()
    assert torch.allclose(prepare(model)(x), model(x), atol=1e-6)


class Unknown(nn.Module):
    """A network with one operator that has no integer form."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.strange = operation
        self.tail = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.strange(self.conv(x)))


class Softmax(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.softmax(x, dim=1)


@pytest.mark.parametrize(
    ("operation", "word"),
    [
        (nn.GELU(), "GELU"),
        (Softmax(), "softmax"),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2), "dilation"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "reflect"),
    ],
)
def test_an_unknown_operator_names_the_node(operation: nn.Module, word: str) -> None:
    with pytest.raises(QsearchError, match=rf"node 'strange\w*|node 'softmax'.*{word}") as caught:
        prepare(Unknown(operation))
    assert word in str(caught.value)


def test_the_product_of_two_activations_names_the_node() -> None:
    class Gate(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.relu()

    with pytest.raises(QsearchError, match="node 'mul'"):
        normalize(trace(Gate()))


def test_an_affine_without_a_convolution_names_the_node() -> None:
    class Bare(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.pixel_shuffle(x.repeat_interleave(4, dim=1), 2) * 2

    with pytest.raises(QsearchError, match="no convolution"):
        prepare(Bare())


def test_the_sum_of_two_shuffles_meets_its_convolution() -> None:
    nearest = randomized(build("abpn_nearest_f8_x3").module)
    prepared, x = prepare(nearest), torch.rand(1, 3, 10, 12)
    torch.testing.assert_close(prepared(x), nearest(x), rtol=1e-5, atol=1e-3)
    assert [site.name for site in sites(prepared)] == [site.name for site in sites(prepare(build("abpn_f8_x3").module))]


def test_a_shuffle_that_others_read_stays() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(3, 12, 3, padding=1) for _ in range(2))
            self.last, self.shuffle = nn.Conv2d(3, 3, 3, padding=1), nn.PixelShuffle(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = (self.shuffle(conv(x)) for conv in self.convs)
            return self.last(first + second) + first

    model, x = randomized(Read()), torch.rand(1, 3, 10, 12)
    torch.testing.assert_close(prepare(model)(x), model(x), rtol=1e-5, atol=1e-4)
