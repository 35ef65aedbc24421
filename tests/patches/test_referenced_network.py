"""The compiled network of references and queries: the reference's bytes, and the plain network's at first."""

import numpy as np
import pytest
import torch

from qsearch.allocation import uniform
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.patches import (
    Constant,
    Layout,
    Level,
    PatchNetwork,
    ReferencedNetwork,
    ReferencedProgram,
    ReferencedTwin,
    referenced_upscaler,
)
from qsearch.patches.segments import interpreted, whole
from tests.patches.networks import joined, textures, tiny
from tests.patches.test_referenced import clustering, twin
from tests.small_networks import random_images

LAYOUT = Layout(12, 2)


def seen(module: ReferencedTwin, fused: float = 0.0) -> ReferencedTwin:
    """With ranges, and fusions of the given size."""
    with torch.no_grad():
        module.train()(torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1]))
        for refer in module.refer_modules().values():
            if fused:
                torch.nn.init.normal_(refer.fuse.get_parameter("weight"), std=fused)
    return module.eval()


@pytest.mark.parametrize(("every", "low"), [(1, 3), (2, 4), (1, 8)])
def test_at_first_it_has_the_bytes_of_plain_patches(every: int, low: int) -> None:
    network, image, policy = tiny(), textures(30, 41), clustering()
    program = ReferencedProgram.of(network, seen(twin(every, low)))
    assert len(program.repairs) == (every == 1)
    result = ReferencedNetwork(network, program, LAYOUT, policy).run(image)
    plain = PatchNetwork(network, program.levels, LAYOUT, policy).run(image)
    np.testing.assert_array_equal(result.image, plain.image)
    assert result.patches == plain.patches
    assert result.bitops - plain.bitops == program.refer_bitops(
        policy.decide(image, LAYOUT.split(30, 41)), *_side(30, 41)
    )
    assert (result.bitops > plain.bitops) == (every == 1)


@pytest.mark.parametrize("size", [(30, 41), (5, 40), (12, 12), (1, 1)])
def test_compiled_it_has_the_bytes_of_the_reference(size: tuple[int, int]) -> None:
    network, image, policy = tiny(), textures(*size, 6), clustering()
    program = ReferencedProgram.of(network, seen(twin(), 0.1))
    found = ReferencedNetwork(network, program, LAYOUT, policy).run(image)
    expected = ReferencedNetwork(network, program, LAYOUT, policy, execute=interpreted).run(image)
    np.testing.assert_array_equal(found.image, expected.image)


@pytest.mark.parametrize("alike", [True, False])
def test_all_patches_alike_or_grey(alike: bool) -> None:
    network, policy = tiny(), clustering()
    image = np.full((24, 36, 3), 128, np.uint8) if alike else random_images(1, 24, 36)[0]
    program = ReferencedProgram.of(network, seen(twin(), 0.1))
    assert ReferencedNetwork(network, program, LAYOUT, policy).run(image).image.shape == (48, 72, 3)


@pytest.mark.parametrize(("low", "most", "share"), [(8, 0.3, 0.1), (3, 2.0, 0.5)])
def test_it_is_what_training_saw(low: int, most: float, share: float) -> None:
    """But for a query's rounding to 8 bits, which lets few codes of 3 bits fall to the other side."""
    network, image, policy = tiny(), textures(24, 36), clustering()
    module = seen(twin(1, low), 0.05)
    program = ReferencedProgram.of(network, module)
    found = ReferencedNetwork(network, program, LAYOUT, policy).run(image).image
    simulated = referenced_upscaler(module, network.model, LAYOUT, policy)(image).astype(int)
    plain = PatchNetwork(network, program.levels, LAYOUT, policy).run(image).image
    error = np.abs(found - simulated).mean()
    assert error < most
    assert error < share * np.abs(plain - simulated).mean(), "RefER moves the image by more than integers do"


def test_taps_do_not_change_the_image() -> None:
    network, image = tiny(), textures(20, 20)
    program = ReferencedProgram.of(network, seen(twin()))
    high = program.levels[0]
    alone = HostNetwork(high.program(network)).run(image)
    np.testing.assert_array_equal(interpreted(program.high)({"image": image})[program.high.outputs[0]], alone)
    assert program.high == whole(program.high.module)


def test_several_repairs_and_crossing_values() -> None:
    network = joined()
    torch.manual_seed(0)
    module = seen(ReferencedTwin(network, uniform(network.sites, 8, 8), uniform(network.sites, 4, 4), 1), 0.1)
    program = ReferencedProgram.of(network, module)
    assert len(program.repairs) == len(module.positions) >= 3
    image, policy = textures(24, 25, 6), clustering()
    found = ReferencedNetwork(network, program, LAYOUT, policy).run(image).image
    expected = ReferencedNetwork(network, program, LAYOUT, policy, execute=interpreted).run(image).image
    np.testing.assert_array_equal(found, expected)


def test_mistakes_are_said() -> None:
    network = tiny()
    with pytest.raises(QsearchError, match="train it first"):
        ReferencedProgram.of(network, twin())
    program = ReferencedProgram.of(network, seen(twin()))
    assert all(isinstance(level, Level) for level in program.levels)
    with pytest.raises(QsearchError, match="names no references"):
        ReferencedNetwork(network, program, LAYOUT, Constant()).run(textures(24, 24))


def _side(height: int, width: int) -> tuple[int, int]:
    box = LAYOUT.split(height, width)[0].input
    return box.bottom - box.top, box.right - box.left
