"""Two widths with RefER between: without training it is plain per-patch bits, and training improves the queries."""

from pathlib import Path

import numpy as np
import pytest
import torch

from qsearch.allocation import uniform
from qsearch.errors import QsearchError
from qsearch.evaluation import evaluate
from qsearch.images import read_pairs, resize_bicubic, save_image
from qsearch.patches import (
    Classifier,
    ClustBlock,
    Clustering,
    EdgeRule,
    Layout,
    PatchNetwork,
    RandomReferences,
    ReferencedTwin,
    ReferSettings,
    levels_of,
    referenced_upscaler,
    train_referenced,
)
from tests.patches.networks import textures, tiny
from tests.small_networks import random_images

LAYOUT = Layout(12)
SETTINGS = ReferSettings(
    iterations=12, patch=24, warmup=2, average=0.5, refer_unit=1.0, validate_every=6, checkpoint_every=6
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def clustering() -> Clustering:
    torch.manual_seed(0)
    return Clustering(Classifier.freeze(ClustBlock(3).eval(), random_images(4, 12, 12)))


def twin(every: int = 1, low: int = 3) -> ReferencedTwin:
    network = tiny()
    torch.manual_seed(0)
    return ReferencedTwin(network, uniform(network.sites, 8, 8), uniform(network.sites, low, low), every)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for index in range(3):
        save_image(folder / f"{index}.png", resize_bicubic(random.integers(0, 256, (8, 9, 3), np.uint8), 8))
    return folder


def test_untrained_it_is_close_to_the_integer_network_patch_by_patch() -> None:
    network, image, policy = tiny(), textures(24, 36), clustering()
    integer = PatchNetwork(network, levels_of(network, "8-3"), LAYOUT, policy).run(image)
    assert {report.bits for report in integer.patches} == {"8", "3"}
    simulated = referenced_upscaler(twin().eval(), network.model, LAYOUT, policy)(image)
    assert np.abs(simulated.astype(int) - integer.image).mean() < 1.0


def test_positions_are_the_blocks_before_the_upsampling() -> None:
    assert twin().positions == ["conv2"]
    assert twin(every=2).positions == []


def test_its_cost_counts_refer_for_queries_alone() -> None:
    module = twin()
    high, low = module.bitops(tiny(), 12, 12)
    plain_high, plain_low = twin(every=2).bitops(tiny(), 12, 12)
    assert high == plain_high
    assert low == plain_low + module.refer_bitops(12, 12)
    assert module.refer_bitops(12, 12) > 0


def test_training_helps_and_continues_where_it_was(photographs: Path, tmp_path: Path) -> None:
    network, policy = tiny(), clustering()
    whole = twin()
    before = {name: value.clone() for name, value in whole.high.state_dict().items()}
    train_referenced(network, whole, LAYOUT, policy, [photographs], tmp_path / "whole", SETTINGS, photographs)
    assert all(torch.equal(value, before[name]) for name, value in whole.high.state_dict().items())
    assert bool(whole.refers.get_submodule("conv2.fuse").get_parameter("weight").any())
    again = twin()
    psnr_db = train_referenced(network, again, LAYOUT, policy, [photographs], tmp_path / "whole", SETTINGS, photographs)
    untrained = referenced_upscaler(twin().eval(), network.model, LAYOUT, policy)
    assert psnr_db > evaluate(untrained, read_pairs(photographs, 2), 2).psnr_y_db + 0.1
    for name, value in again.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_a_query_depends_on_its_own_reference_alone() -> None:
    module, patches = twin(), torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    module(patches, torch.tensor([0, 1, 0, 1]))  # gives the 8-bit values their range
    module.eval()
    fuse = module.refers.get_submodule("conv2.fuse")
    with torch.no_grad():
        torch.nn.init.normal_(fuse.get_parameter("weight"), std=0.1)
        plain, other = (module(patches, torch.tensor(names)) for names in ([0, 1, 0, 1], [0, 1, 1, 1]))
        alone = module(patches[[0, 2]], torch.tensor([0, 0]))
    assert torch.equal(plain[[0, 1, 3]], other[[0, 1, 3]])
    assert not torch.equal(plain[2], other[2])
    torch.testing.assert_close(alone[1], plain[2])


def test_random_references_have_the_same_levels_and_cost() -> None:
    policy, image, patches = clustering(), textures(48, 48), LAYOUT.split(48, 48)
    control = RandomReferences(policy, seed=1)
    assert control.decide(image, patches).levels == policy.decide(image, patches).levels
    assert control.bitops(patches) == policy.bitops(patches)


def test_mistakes_are_said_in_one_line() -> None:
    with pytest.raises(QsearchError, match="not every 0"):
        twin(every=0)
    with pytest.raises(QsearchError, match="names no references"):
        referenced_upscaler(twin(), tiny().model, LAYOUT, EdgeRule((1,)))(textures(24, 24))
    with pytest.raises(QsearchError, match="no reference"):
        twin()(torch.zeros(3, 3, 8, 8), torch.tensor([1, 2, 2]))
    with pytest.raises(QsearchError, match="distillation must not be negative"):
        ReferSettings(distillation=-1.0)
