"""Fine-tuning: nearer to the float network, the same after a kill, in stages or jointly, and clear about mistakes."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qsearch.allocation import Allocation, uniform
from qsearch.errors import QsearchError
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.quant import finetune as module
from qsearch.quant.choice import squared_error, with_quantizers
from qsearch.quant.crops import Crops
from qsearch.quant.features import Features, feature_weights
from qsearch.quant.finetune import finetune
from qsearch.quant.finetune_settings import RATES, FineTuneSettings
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.twin import Group
from tests.tiny import TINY

SHORT = FineTuneSettings(iterations=12, batch=2, patch=16, epoch=2, refit=False)
# A network of so few channels bears, and needs, larger steps.
STEEP: dict[Group, float] = {group: 15 * rate for group, rate in RATES.items()}
QUANTIZERS: tuple[Group, ...] = ("weight_scale", "bounds", "breakpoint")


def pictures(count: int = 4) -> list[NDArray[np.uint8]]:
    """Smooth pictures of several sizes."""
    found = []
    for i in range(count):
        random = np.random.default_rng(i)
        coarse = random.integers(0, 256, (5 + i, 6, 3)).astype(np.float64)
        found.append(np.rint(coarse.repeat(6, 0).repeat(6, 1)).astype(np.uint8))
    return found


@pytest.fixture(scope="module")
def network() -> CalibratedNetwork:
    return CalibratedNetwork.make(load(TINY), pictures())


@pytest.fixture(scope="module")
def allocation(network: CalibratedNetwork) -> Allocation:
    return with_quantizers(network.calibration, uniform(network.sites, 4, 4), "piecewise")


@pytest.fixture(scope="module")
def crude(network: CalibratedNetwork) -> Allocation:
    """Ranges as wide as everything that was seen, which fine-tuning can improve upon."""
    base = uniform(network.sites, 4, 4)
    return Allocation(sites={k: site.model_copy(update={"observer": "minmax"}) for k, site in base.sites.items()})


def error(network: CalibratedNetwork, allocation: Allocation, finetuned: FineTuned | None) -> float:
    """Mean absolute difference of the integer network from the float one, in levels."""
    program = network.program(allocation, finetuned)
    off = []
    for image in pictures():
        result = program(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
        off.append(np.abs(result.astype(np.int64) - network.model.run(image).astype(np.int64)).mean())
    return float(np.mean(off))


def same(a: FineTuned, b: FineTuned) -> bool:
    return a.grids == b.grids and all(
        torch.equal(a.weights[n].values, b.weights[n].values)
        and torch.equal(a.weights[n].scale, b.weights[n].scale)
        and torch.equal(a.biases[n], b.biases[n])
        for n in a.weights
    )


@pytest.mark.parametrize("groups", [QUANTIZERS, (*QUANTIZERS, "rounding", "bias")])
@pytest.mark.parametrize("distance", ["l1", "rms"])
def test_the_integer_network_comes_nearer_to_the_float_one(
    network: CalibratedNetwork, crude: Allocation, groups: tuple[Group, ...], distance: Literal["l1", "rms"]
) -> None:
    settings = FineTuneSettings(
        iterations=100, batch=2, patch=24, groups=groups, distance=distance, correct_bias=False, rates=STEEP
    )
    finetuned = finetune(network.calibration, crude, pictures(), settings)
    assert error(network, crude, finetuned) < 0.95 * error(network, crude, None)


def test_what_does_not_come_nearer_is_not_kept(network: CalibratedNetwork, crude: Allocation) -> None:
    wild: dict[Group, float] = dict.fromkeys(RATES, 5.0)
    settings = FineTuneSettings(iterations=30, batch=1, patch=16, refit=False, rates=wild, warmup=0)
    finetuned = finetune(network.calibration, crude, pictures(), settings)
    assert error(network, crude, finetuned) < 1.1 * error(network, crude, None)


def test_a_killed_run_ends_as_an_uninterrupted_one(
    network: CalibratedNetwork, allocation: Allocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 3)
    path = tmp_path / "state.pt"

    class KilledError(Exception):
        pass

    def kill(done: int, total: int) -> None:
        assert total == SHORT.iterations
        if done == 7:
            raise KilledError

    with pytest.raises(KilledError):
        finetune(network.calibration, allocation, pictures(), SHORT, None, path, kill)
    seen: list[int] = []
    resumed = finetune(
        network.calibration, allocation, pictures(), SHORT, None, path, lambda done, _: seen.append(done)
    )
    assert seen == list(range(7, SHORT.iterations + 1))
    assert same(resumed, finetune(network.calibration, allocation, pictures(), SHORT))


def test_a_checkpoint_of_something_else_is_refused(
    network: CalibratedNetwork, allocation: Allocation, tmp_path: Path
) -> None:
    path = tmp_path / "state.pt"
    one = FineTuneSettings(iterations=1, batch=1, patch=16, refit=False)
    finetune(network.calibration, allocation, pictures(), one, checkpoint=path)
    with pytest.raises(QsearchError, match="another images"):
        finetune(network.calibration, allocation, pictures(3), one, checkpoint=path)
    with pytest.raises(QsearchError, match="another settings"):
        finetune(network.calibration, allocation, pictures(), SHORT, checkpoint=path)


def test_stages_train_their_own_group_and_weights_keep_still(
    network: CalibratedNetwork, allocation: Allocation
) -> None:
    settings = FineTuneSettings(
        iterations=4,
        epoch=4,
        batch=1,
        patch=16,
        groups=QUANTIZERS,
        schedule="staged",
        correct_bias=False,
        refit=False,
    )
    run = module._Run(network.calibration, allocation, Crops(pictures(), network.model.white), settings)
    for _ in range(settings.iterations):
        run.step()
    finetuned = run.twin.finetuned()
    for site, grid in finetuned.grids.items():
        assert grid == network.calibration.grid(site, allocation.sites[site]), "the first epoch trains weight scales"
    for conv in network.calibration.graph.modules():
        name = getattr(conv, "name", None)
        if name in finetuned.weights and not conv.identity:
            start = network.calibration.weight(conv, 4)  # type: ignore[arg-type]
            assert not torch.equal(finetuned.weights[name].scale, start.scale)
            assert torch.equal(finetuned.biases[name], conv.bias)
    longer = replace(settings, iterations=40)
    assert longer.rate("bounds", 3) == 0
    assert longer.rate("weight_scale", 3) > 0
    assert longer.rate("bounds", 4) > 0
    assert longer.rate("breakpoint", 8) > 0
    assert longer.rate("weight_scale", 12) > 0


def test_sensitive_layers_count_more(network: CalibratedNetwork) -> None:
    features = Features(network.calibration.graph, "all")
    batches = [Crops(pictures(), network.model.white).batch((0,), 2, 24)]
    found = {
        weighting: feature_weights(features, batches, FineTuneSettings(weighting=weighting), network.model.white)
        for weighting in ("tempered", "raw", "equal")
    }
    for weights in found.values():
        assert sum(weights.values()) == pytest.approx(1)
    assert len(set(found["equal"].values())) == 1
    order = sorted(features.names, key=lambda name: found["tempered"][name])
    assert order == sorted(features.names, key=lambda name: found["raw"][name])
    assert max(found["raw"].values()) > max(found["tempered"].values())


def test_the_better_kind_is_chosen_at_every_site(network: CalibratedNetwork) -> None:
    base = uniform(network.sites, 4, 4)
    kinds = {kind: with_quantizers(network.calibration, base, kind) for kind in ("uniform", "piecewise", None)}
    for site, stats in network.calibration.stats.items():
        grids = {kind: network.calibration.grid(site, chosen.sites[site]) for kind, chosen in kinds.items()}
        errors = {kind: squared_error(stats, grid) for kind, grid in grids.items()}
        assert errors[None] == min(errors.values())


def test_stretched_crops_reach_black_and_white() -> None:
    noise = [np.random.default_rng(i).integers(90, 100, (30, 30, 3)).astype(np.uint8) for i in range(3)]
    dull = [image + np.array([0, 10, 20], np.uint8) for image in noise]
    plain, stretched = (Crops(dull, 1.0, share).batch((0,), 40, 24) for share in (0.0, 1.0))
    assert float(plain.min()) >= 90 / 255
    assert float(plain.max()) < 120 / 255
    assert torch.all(stretched.amin((1, 2, 3)) == 0)
    assert torch.all(stretched.amax((1, 2, 3)) == 1)
    every_colour = (stretched.amin((2, 3)) == 0).all(1) & (stretched.amax((2, 3)) == 1).all(1)
    assert 5 < int(every_colour.sum()) < 40


@pytest.mark.parametrize("picture", [np.zeros((20, 20, 3), np.uint8), np.full((16, 40, 3), 128, np.uint8)])
def test_black_and_constant_pictures_work(picture: NDArray[np.uint8]) -> None:
    network = CalibratedNetwork.make(load(TINY), [picture])
    wanted = with_quantizers(network.calibration, uniform(network.sites, 4, 4), "piecewise")
    finetuned = finetune(network.calibration, wanted, [picture], SHORT)
    assert all(bool(weight.scale.isfinite().all()) for weight in finetuned.weights.values())
    network.program(wanted, finetuned)


def test_mistakes_are_named(network: CalibratedNetwork, allocation: Allocation) -> None:
    with pytest.raises(QsearchError, match="at least one"):
        finetune(network.calibration, allocation, [])
    with pytest.raises(QsearchError, match="side of 8 pixels"):
        finetune(network.calibration, allocation, [np.zeros((8, 40, 3), np.uint8)])
    for wrong in ({"patch": 8}, {"batch": 0}, {"iterations": -1}, {"groups": ("colour",)}):
        with pytest.raises(QsearchError, match="fine-tuning"):
            FineTuneSettings(**wrong)  # type: ignore[arg-type]
