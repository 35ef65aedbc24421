"""Modelled latency: its order, its labels, and that what is modelled is the machine code that ships."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import tvm

from qsearch.compile import cache, kernels, plan
from qsearch.compile.specs import ConvSpec, OutSpec
from qsearch.errors import QsearchError
from qsearch.measure.cycle_check import Checked, agreement, random_convolution
from qsearch.measure.cycles import counting, mca
from qsearch.measure.cycles.cores import CORES
from qsearch.measure.cycles.graph import loop_forest
from qsearch.measure.cycles.kernel import analyse, kernel_cycles, lengths
from qsearch.measure.cycles.machine import blocks_of
from qsearch.measure.modelled import can_be_modelled, describe, latency_modelled_ms, modelled
from qsearch.rates import Rates
from qsearch.search import human, parse_objectives
from qsearch.target import Target, list_targets
from tests.random_programs import Layer, build_program

SPEC = ConvSpec((3, 3), 1, (1, 1), 32, 1, 32, (OutSpec(32, 1),))
A53 = Target(name="board", arch="aarch64", cpu="Cortex-A53", features=("asimd",), threads=4)
needs_mca = pytest.mark.skipif(mca.find_tool() is None, reason="llvm-mca is not installed")


@pytest.fixture
def by_rates(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine without llvm-mca."""
    monkeypatch.setattr(mca, "find_tool", lambda: None)
    mca.knows.cache_clear()
    yield
    mca.knows.cache_clear()


def cycles(spec: ConvSpec = SPEC, isa: str = "arm_neon", core: str = "cortex-a53", rows: int = 24) -> float:
    """Cycles of a kernel on ARM."""
    return kernel_cycles(spec, isa, "aarch64", CORES[core], (rows, 96)).cycles


def executed(spec: ConvSpec, isa: str, arch: str, kind: str, size: tuple[int, int]) -> float:
    """Instructions of a kind that run for an input of `size`, its border counted."""
    analysis = analyse(spec, isa, arch)
    height, width = (hash(extent) for extent in analysis.function.params[0].shape[:2])
    sizes = {height: size[0], width: size[1], **lengths(spec, isa, analysis.function)}
    executions = analysis.kernel.scopes.executions(sizes)
    return sum(
        region.times * counting.kinds(analysis.code.get(block, []))[kind]
        for region in analysis.kernel.regions(executions)
        for block in region.blocks
    )


@pytest.mark.parametrize(
    ("algorithm", "reduction"),
    [("direct", 1.0), ("winograd:3xf2", 1.5), ("winograd:f2xf2", 2.25), ("winograd:f4xf4", 144 / 49)],
)
def test_every_loop_runs_as_often_as_the_arithmetic_says(algorithm: str, reduction: float) -> None:
    spec = replace(SPEC, in_channels=64, out_channels=64, outputs=(OutSpec(64, 1),))
    conv = random_convolution(spec, 2, 2)
    form = next(f for f in kernels.candidates(spec, "avx512_vnni", conv) if f.algorithm.startswith(algorithm))
    dots = executed(form, "avx512_vnni", "x86_64", "dot", (48 + 2, 240 + 2))
    expected = 48 * 240 * 9 * 64 * 64 / 64 / reduction
    assert expected * 0.999 <= dots <= expected * 1.12  # tiles overlap at the edges


def test_few_channels_and_small_bodies_are_counted_in_full() -> None:
    """LLVM makes a copy of the task loop for every outcome of a condition; one of them runs."""
    spec = replace(SPEC, in_channels=64, out_channels=3, outputs=(OutSpec(3, 0),), algorithm="narrow")
    found = kernel_cycles(spec, "avx512_vnni", "x86_64", CORES["zen5"], (48, 240))
    dots = 48 * 240 * 3 * 9
    assert found.instructions > 1.5 * dots
    assert dots / CORES["zen5"].dots < found.cycles < 4 * dots


def test_the_modelled_code_is_the_code_that_ships() -> None:
    module = tvm.IRModule({SPEC.symbol: kernels.prim_func(SPEC, "arm_neon")})
    plain = cache.compile_module(module, kernels.kernel_target("arm_neon", "aarch64")).inspect_source("s")
    shipped = sorted(chain.from_iterable(blocks_of(plain).values()))
    marked = analyse(SPEC, "arm_neon", "aarch64").code
    assert len(shipped) > 100
    assert shipped == sorted(chain.from_iterable(marked.values()))


def test_more_work_takes_longer() -> None:
    wider = replace(SPEC, in_channels=64, out_channels=64, outputs=(OutSpec(64, 1),))
    assert cycles(rows=24) < cycles(rows=48) < cycles(rows=72)
    assert 3 < cycles(wider) / cycles() < 5


def test_order_of_instruction_sets() -> None:
    dot, neon, portable = (cycles(isa=isa, core="cortex-a76") for isa in ("arm_dotprod", "arm_neon", "generic"))
    assert dot < neon < portable


@pytest.mark.usefixtures("by_rates")
def test_rates_stand_in_for_llvm_mca() -> None:
    found = kernel_cycles(SPEC, "arm_neon", "aarch64", CORES["cortex-a53"], (24, 96))
    assert found.method == "instruction counts and the rates of cortex-a53"
    dot, neon, portable = (cycles(isa=isa, core="cortex-a76") for isa in ("arm_dotprod", "arm_neon", "generic"))
    assert dot < neon < portable


@needs_mca
def test_the_method_is_named() -> None:
    assert "llvm-mca" in describe(A53)
    assert "instruction counts" in describe(A53.model_copy(update={"rates": Rates(mca_cpu="none")}))


def test_fewer_bits_pay_on_a_core_without_dot_product(tmp_path: Path) -> None:
    spec = replace(SPEC, in_channels=16, out_channels=16, outputs=(OutSpec(16, 1),))
    choose = modelled(A53, tmp_path)
    many, few = (choose(spec, "arm_neon", random_convolution(spec, bits, bits)) for bits in (8, 3))
    assert cycles(few) < 0.9 * cycles(many)


def test_threads_share_the_rows(tmp_path: Path) -> None:
    program = plan.build(build_program([Layer(32), Layer(3)], seed=1), "arm_neon")
    one, four = (latency_modelled_ms(program, A53, (24, 96), threads, tmp_path) for threads in (1, 4))
    assert one.conditions["method"].startswith("modelled, not measured")
    assert one.latency_modelled_ms == pytest.approx(sum(step.modelled_ms for step in one.steps))
    assert 2 < one.latency_modelled_ms / four.latency_modelled_ms <= 4
    for damaged in (tmp_path / "cycles").glob("*.json"):
        damaged.write_text("{")
    again = latency_modelled_ms(program, A53, (24, 96), 1, tmp_path)
    assert again.latency_modelled_ms == one.latency_modelled_ms


def test_a_cpu_without_a_model_is_named() -> None:
    unknown = A53.model_copy(update={"cpu": "Gigatron 9"})
    assert not can_be_modelled(unknown)
    with pytest.raises(
        QsearchError, match=r"^target board: there is no cycle model of 'gigatron-9'.*\[rates\] core"
    ) as error:
        modelled(unknown)
    assert "\n" not in str(error.value)


def test_every_shipped_arm_processor_can_be_modelled() -> None:
    shipped = [target for target in list_targets() if target.arch != "x86_64" and target.isa in kernels.ISAS]
    assert len(shipped) >= 3
    assert all(describe(target).startswith("modelled, not measured") for target in shipped)


def test_modelled_figures_are_labelled() -> None:
    (_, objective) = parse_objectives("psnr_y_db,latency_modelled_ms")
    assert "modelled" in objective.label
    assert human(objective.name, 12.34) == "12.3 ms (modelled)"
    with pytest.raises(QsearchError, match="never mix"):
        parse_objectives("psnr_y_db,latency_ms,latency_modelled_ms")


def test_loops_of_a_graph() -> None:
    outer, alone = loop_forest([[1], [2, 5], [3], [2, 4], [1], [6], [6, 7], []])
    assert sorted([outer.header, alone.header]) == [1, 6]
    outer = outer if outer.header == 1 else alone
    assert outer.all == {1, 2, 3, 4}
    assert outer.own == {1, 4}
    assert [inner.header for inner in outer.inner] == [2]


def test_agreement_of_the_same_order() -> None:
    rows = [Checked(SPEC, "generic", "", modelled, measured, "") for modelled, measured in ((1, 3), (2, 5), (9, 7))]
    found = agreement(rows)
    assert found.rank_correlation == pytest.approx(1.0)
    assert found.spread > 1
