"""Networks whose fastest kernels are too large get smaller ones, with the least loss of time and the same bytes."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from qsearch.compile import cache, code_budget, elf, kernels
from qsearch.compile.host import HostNetwork
from qsearch.compile.specs import ConvSpec, OutSpec
from qsearch.host import detect_host
from tests.random_programs import Layer, build_program, reference

SPEC = ConvSpec((3, 3), 1, (1, 1), 64, 1, 64, (OutSpec(64, 1),))
OTHER = replace(SPEC, prelu=True)
FAST, SLOW, DIRECT = "winograd:f2xf4", "winograd:3xf4", "direct"
SIZES = {FAST: 9, SLOW: 8, DIRECT: 6}


def form(algorithm: str, spec: ConvSpec = SPEC) -> ConvSpec:
    return replace(spec, algorithm=algorithm)


def size(spec: object) -> int:
    assert isinstance(spec, ConvSpec)
    return SIZES[spec.algorithm]


def test_forms_that_fit_are_kept() -> None:
    costs = [{form(FAST): 1.0, form(DIRECT): 2.0}]
    assert code_budget.fit([form(FAST)], costs, size, 9) == [form(FAST)]


def test_layers_share_a_kernel_where_that_loses_least() -> None:
    """The last layer is the smallest: it moves, to the kernel of the second, which needs no more code."""
    rare = {form(SLOW): 1.0, form(DIRECT): 1.5}
    costs = [{form(FAST): 10.0, form(SLOW): 13.0, form(DIRECT): 20.0}, rare, {**rare, form(FAST): 0.5}]
    forms = [form(FAST), form(SLOW), form(DIRECT)]
    assert code_budget.fit(forms, costs, size, 17) == [form(FAST), form(SLOW), form(FAST)]


def test_a_form_that_nobody_uses_yet_may_be_the_smallest() -> None:
    costs = [{form(FAST): 1.0, form(DIRECT): 2.0}, {form(FAST, OTHER): 4.0, form(DIRECT, OTHER): 8.0}]
    forms = [form(FAST), form(FAST, OTHER)]
    assert code_budget.fit(forms, costs, size, 15) == [form(DIRECT), form(FAST, OTHER)]
    smallest = [form(DIRECT), form(DIRECT, OTHER)]
    assert code_budget.fit(forms, costs, size, 12) == smallest
    assert code_budget.fit(forms, costs, size, 1) == smallest


def test_a_network_in_its_budget_gives_the_same_bytes(tmp_path: Path) -> None:
    layers = [Layer(32, bits=4), *[Layer(32, bits=3, weight_bits=2) for _ in range(2)], Layer(3)]
    program = build_program(layers, seed=3)
    target = kernels.host_target("generic")

    def built(budget: int) -> tuple[list[ConvSpec], int]:
        plan = code_budget.build(program, "generic", detect_host().arch, kernels.expected, budget, tmp_path)
        objects = [cache.kernel_object(spec, "generic", target, tmp_path) for spec in plan.kernels]
        forms = [step.spec for step in plan.steps if isinstance(step.spec, ConvSpec)]
        return forms, sum(elf.code_bytes(path.read_bytes()) for path in objects)

    fastest, most = built(1_000_000)
    smallest, least = built(1)
    assert least < most
    assert any(form.algorithm != "direct" for form in fastest)
    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    remaining = iter(smallest)
    network = HostNetwork(program, 1, "generic", tmp_path, lambda *_: next(remaining))
    np.testing.assert_array_equal(network.run(image), reference(program, image))
