"""The curve of PSNR against BitOPs has the very numbers of execution, and the oracle bounds the rules."""

import numpy as np
import pytest

from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.images import Pair
from qsearch.metrics import Protocol, psnr
from qsearch.patches import (
    Constant,
    CurvePoint,
    EdgeRule,
    Layout,
    PatchBank,
    PatchNetwork,
    bitops_at,
    levels_of,
    static_point,
)
from tests.patches.networks import textures, tiny
from tests.small_networks import random_images

LAYOUT = Layout(16, 4)
RULE = EdgeRule((2000,))


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """The originals are what the 8-bit network makes, so that bits are all that costs quality."""
    network = tiny()
    host = HostNetwork(network.program(levels_of(network, "8")[0].allocation))
    images = [textures(40, 48), random_images(1, 33, 50)[0]]
    return [Pair(str(number), image, host.run(image), "as stored") for number, image in enumerate(images)]


@pytest.fixture(scope="module")
def bank(pairs: list[Pair]) -> PatchBank:
    return PatchBank(tiny(), levels_of(tiny(), "8-6-3"), LAYOUT, pairs)


def test_a_point_is_what_execution_gives(bank: PatchBank, pairs: list[Pair]) -> None:
    patched = PatchNetwork(tiny(), levels_of(tiny(), "6-3"), LAYOUT, RULE)
    results = [patched.run(pair.lr) for pair in pairs]
    point = bank.point("6-3", RULE, ["6", "3"])
    expected = [psnr(result.image, pair.hr, Protocol(crop=2)) for result, pair in zip(results, pairs, strict=True)]
    assert point.psnr_y_db == pytest.approx(np.mean(expected), abs=1e-9)
    assert point.bitops == np.mean([result.bitops for result in results])
    assert 0 < point.high_share < 1


def test_the_oracle_is_no_worse_than_the_rule(bank: PatchBank) -> None:
    rule = bank.point("rule", RULE, ["6", "3"])
    oracle = bank.oracle("oracle", ["6", "3"], rule.high_share)
    assert oracle.high_share == pytest.approx(rule.high_share, abs=0.05)
    assert oracle.psnr_y_db >= rule.psnr_y_db - 1e-9
    lowest, highest = (bank.point("", Constant(level), ["6", "3"]).psnr_y_db for level in (1, 0))
    assert bank.oracle("", ["6", "3"], 0.0).psnr_y_db == pytest.approx(lowest)
    assert bank.oracle("", ["6", "3"], 1.0).psnr_y_db == pytest.approx(highest)


def test_static_allocations_pay_no_overlap(bank: PatchBank, pairs: list[Pair]) -> None:
    level = levels_of(tiny(), "6")[0]
    static, patched = static_point(tiny(), level, pairs), bank.point("6", Constant(), ["6"])
    assert static.bitops < patched.bitops
    assert static.high_share == patched.high_share == 1


def test_bitops_at_a_psnr() -> None:
    points = [CurvePoint("", *values, 1.0) for values in ((30.0, 100.0), (32.0, 300.0), (29.0, 250.0))]
    assert bitops_at(points, 31.0) == 200
    assert bitops_at(points, 20.0) == 100
    assert bitops_at(points, 33.0) is None
    assert bitops_at([], 1.0) is None


def test_levels_of_one_name_are_refused() -> None:
    with pytest.raises(QsearchError, match="a name of its own"):
        PatchBank(tiny(), levels_of(tiny(), "8-8"), LAYOUT, [])
