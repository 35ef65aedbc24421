"""Searching kinds of quantizers, spans and breakpoints beside bits."""

from pathlib import Path

import numpy as np
import pytest

from qsearch.allocation import Allocation, SiteAllocation, uniform
from qsearch.errors import QsearchError
from qsearch.search import Budget, History, hypervolume, load_history, parse_objectives, run_search
from qsearch.search.forms import FORMS, Form, code_of, codes_of, form_of
from qsearch.search.history import POLISHED, polish
from qsearch.search.noise import prior_table
from qsearch.search.price import tabulate
from qsearch.search.space import Space, allocation_of
from tests.search.toy import OBJECTIVES, SITES, cost
from tests.search.toy import measure as measure_bits

BEST_INSIDE, CALIBRATED_INSIDE, RATIO = 0.98, 0.9, 4
_PENALTY = {15: 1.5, 31: 1.2, 63: 1.05, None: 1.0}


def squared_error(setting: SiteAllocation) -> float:
    """Of a site's quantizer, in units of that of 0 bits: piecewise ones are better, the more so with a free span."""
    if setting.quantizer == "uniform":
        return 4.0**-setting.bits
    return 4.0**-setting.bits * 0.5 * _PENALTY[setting.span]


def describe(site: str, setting: SiteAllocation) -> tuple[float, float, int]:
    return squared_error(setting), setting.inside or CALIBRATED_INSIDE, setting.ratio or RATIO


def measure(allocation: Allocation) -> dict[str, float]:
    """The toy's picture, where calibration's breakpoints are not quite the best for it."""
    error = 255**2 * 10 ** (-measure_bits(bits_only(allocation))["psnr_y_db"] / 10)
    bare = error
    for name, setting in allocation.sites.items():
        if setting.quantizer == "piecewise":
            low = 255**2 * 10 ** (-measure_bits(uniform(SITES, 8, 8).replace({name: setting.bits}))["psnr_y_db"] / 10)
            base = 255**2 * 10 ** (-measure_bits(uniform(SITES, 8, 8))["psnr_y_db"] / 10)
            off = abs(np.log((1 - (setting.inside or CALIBRATED_INSIDE)) / (1 - BEST_INSIDE)))
            share = squared_error(setting) * 4.0**setting.bits * (1 + 0.2 * off)
            error -= (1 - min(share, 2.0)) * (low - base) * 0.9
    return {"psnr_y_db": float(10 * np.log10(255**2 / max(error, bare * 0.2)))}


def bits_only(allocation: Allocation) -> Allocation:
    return Allocation(sites={name: SiteAllocation(bits=site.bits) for name, site in allocation.sites.items()})


def search(folder: Path, trials: int, **changes: object) -> History:
    arguments = {"quantizers": "both", "describe": describe, "objectives": OBJECTIVES} | changes
    return run_search(folder, SITES, measure, cost, budget=Budget(trials=trials), **arguments)  # type: ignore[arg-type]


def covered(history: History) -> float:
    """Hypervolume in PSNR and log BitOPs, in units that all searches share."""
    values = np.array([[-p.metrics["psnr_y_db"], np.log(p.metrics["bitops"])] for p in history.points])
    return hypervolume(values, np.array([-10.0, 10.0]))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> History:
    return search(tmp_path_factory.mktemp("runs") / "both", 70)


def test_both_kinds_beat_uniform_ones_alone(both: History, tmp_path: Path) -> None:
    assert covered(both) > covered(search(tmp_path / "uniform", 70, quantizers="uniform", describe=None))


def test_every_trial_is_another_allocation_that_fits_and_reads_back(both: History) -> None:
    assert len({point.allocation.to_json() for point in both.points}) == 70
    for point in both.points:
        point.allocation.check(SITES)
        assert Allocation.model_validate_json(point.allocation.to_json()) == point.allocation
        for setting in point.allocation.sites.values():
            SiteAllocation.model_validate(setting.model_dump())  # span, ratio and bits go together
    assert load_history(both.folder).points == both.points


def test_breakpoints_are_refined_from_calibrations(both: History) -> None:
    children = [p for p in both.points if any(s.inside is not None for s in p.allocation.sites.values())]
    assert children
    for child in children:
        twins = [p for p in both.points if bits_and_kinds(p.allocation) == bits_and_kinds(child.allocation)]
        if len(twins) > 1 and child.metrics["psnr_y_db"] > twins[0].metrics["psnr_y_db"]:
            return
    pytest.fail("no refined trial is better than the one that it came from")


def bits_and_kinds(allocation: Allocation) -> list[tuple[int, str, int | None]]:
    return [(site.bits, site.quantizer, site.span) for site in allocation.sites.values()]


def test_a_search_continues_and_another_kind_is_refused(tmp_path: Path) -> None:
    first = search(tmp_path / "run", 24).points
    assert search(tmp_path / "run", 30).points[:24] == first
    with pytest.raises(QsearchError, match="quantizers is both"):
        search(tmp_path / "run", 30, quantizers="piecewise")
    with pytest.raises(QsearchError, match="needs to know"):
        search(tmp_path / "other", 30, describe=None)


def test_piecewise_alone_proposes_no_uniform_activation_between_3_and_7_bits(tmp_path: Path) -> None:
    for point in search(tmp_path / "run", 30, quantizers="piecewise").points:
        if point.origin in ("seed", "search"):
            for site in (site for site in SITES if site.kind != "weight" and len(site.choices) > 1):
                setting = point.allocation.sites[site.name]
                assert setting.quantizer == "piecewise" or setting.bits in (2, 8)


def test_codes_and_parameters_name_forms() -> None:
    assert [code_of(form_of(code)) for code in range(2, 2 + len(FORMS))] == list(range(2, 2 + len(FORMS)))
    assert codes_of(SITES[0], "both") == tuple(range(2, 9)), "weights stay uniform"
    space = Space(SITES, uniform(SITES, 8, 8), "both")
    rng = np.random.default_rng(0)
    for _ in range(20):
        codes = np.array([rng.choice(choices) for choices in space.choices])
        allocation = space.allocation(codes)
        assert (space.vector(allocation) == codes).all()
        assert allocation_of(space.base, space.params(allocation)) == allocation
        assert space.complete(space.params(allocation))


def test_noise_of_piecewise_forms_follows_calibration_and_what_was_measured() -> None:
    space = Space(SITES, uniform(SITES, 8, 8), "both")
    name, row = "conv3.input", space.names.index("conv3.input")
    p4, p4_31 = code_of(Form(4, "piecewise")), code_of(Form(4, "piecewise", 31))
    table = prior_table(space, {(name, 4): 10.0}, describe)
    assert table[row, p4 - 2] == pytest.approx(5.0)
    assert table[row, p4_31 - 2] == pytest.approx(6.0)
    table = prior_table(space, {(name, 4): 10.0, (name, p4): 8.0}, describe)
    assert table[row, p4 - 2] == pytest.approx(8.0)
    assert table[row, p4_31 - 2] == pytest.approx(9.6)
    assert np.isinf(table[space.names.index("conv3.weight"), p4 - 2])


def test_prices_follow_spans() -> None:
    space = Space(SITES, uniform(SITES, 8, 8), "both")

    def milliseconds(allocation: Allocation) -> float:
        spans = [s.span or 255 if s.quantizer == "piecewise" else 2**s.bits - 1 for s in allocation.sites.values()]
        return float(sum(1.0 if span > 63 else 0.5 for span in spans))

    price, rng = tabulate(milliseconds, space), np.random.default_rng(0)
    for _ in range(20):
        codes = np.array([rng.choice(choices) for choices in space.choices])
        assert price(codes) == pytest.approx(milliseconds(space.allocation(codes)) / milliseconds(space.base))


def test_a_polished_point_keeps_its_number_and_origin(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    before = search(folder, 12, objectives=parse_objectives("psnr_y_db,bitops")).points
    polish(folder, 3, {**before[3].metrics, "psnr_y_db": 60.0})
    after = load_history(folder).points
    assert (after[3].polished, after[3].metrics["psnr_y_db"], after[3].origin) == (True, 60.0, before[3].origin)
    assert [*after[:3], *after[4:]] == [*before[:3], *before[4:]]
    assert (folder / POLISHED).is_file()
    search(folder, 13)
    assert '"polished": true' in (folder / "front.json").read_text()


def test_a_span_is_limited_only_where_that_saves_something(tmp_path: Path) -> None:
    def milliseconds(allocation: Allocation) -> float:
        spans = [s.span or 255 if s.quantizer == "piecewise" else 2**s.bits - 1 for s in allocation.sites.values()]
        return float(sum(1.0 if span > 63 else 0.5 for span in spans))

    def limited(history: History) -> bool:
        return any(s.span for p in history.points if p.origin == "seed" for s in p.allocation.sites.values())

    assert not limited(search(tmp_path / "bitops", 24))
    timed = run_search(
        tmp_path / "timed",
        SITES,
        lambda a: {**measure(a), "latency_ms": milliseconds(a)},
        cost,
        parse_objectives("psnr_y_db,bitops,latency_ms"),
        Budget(trials=60),
        predict={"latency_ms": milliseconds},
        quantizers="both",
        describe=describe,
    )
    assert limited(timed)
