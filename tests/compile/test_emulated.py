"""Kernels of other processors, in every form, give the bytes of the integer operations under emulation."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.fx import GraphModule

from qsearch.compile import kernels, plan
from qsearch.compile.host import HostNetwork
from qsearch.compile.kernels.transforms import PLANES
from qsearch.compile.packing import Convolution
from qsearch.compile.plan import Plan
from qsearch.compile.specs import ConvSpec
from qsearch.integer import ops
from tests.compile.emulation import MACHINES, Emulated
from tests.random_programs import Layer, build_program, reference

LOW = Layer(20, bits=4, weight_bits=4)
NETWORKS = {
    "epilogues": [Layer(28, prelu=True), Layer(28, kernel=(1, 1), skips=1, quantizers=2), Layer(3, skips=1, shuffle=3)],
    "shapes": [Layer(16, stride=2), Layer(12, kernel=(5, 5), piecewise=True), Layer(8, shuffle=2), Layer(3, shuffle=2)],
    "grouped": [Layer(24, kernel=(9, 9)), Layer(24, groups=0), Layer(40, kernel=(3, 1), same=False), Layer(3)],
    "narrow": [Layer(8, kernel=(1, 3)), Layer(1)],
    "low_bits": [
        replace(LOW, channels=36),
        LOW,
        LOW,
        replace(LOW, skips=1),
        LOW,
        replace(LOW, shuffle=2),
        LOW,
        Layer(3),
    ],
}
WINOGRAD = [f"winograd:{name}" for name in PLANES]
OWN = {"arm_i8mm": ["matmul"], "arm_neon": ["gather"], "armv7_neon": ["gather"]}
SIZES = [(1, 1), (5, 16), (3, 41)]


class EveryForm:
    """Chooses for every layer a form that was chosen least so far; other numbers make no other form."""

    def __init__(self) -> None:
        self.chosen: Counter[str] = Counter()

    def __call__(self, spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
        form = min(kernels.candidates(spec, isa, conv), key=lambda form: self.chosen[self._kind(form)])
        self.chosen[self._kind(form)] += 1
        return form

    def _kind(self, form: ConvSpec) -> str:
        return form.algorithm if form.algorithm in WINOGRAD else form.algorithm.partition(":")[0]


def random_chain(rng: np.random.Generator) -> list[Layer]:
    """Some layers with everything that a network may have, and an image."""
    body = [
        Layer(
            int(rng.integers(1, 40)),
            kernel=[(3, 3), (3, 3), (1, 1), (1, 3), (5, 5)][rng.integers(5)],
            skips=int(rng.integers(3)),
            prelu=bool(rng.integers(2)),
            quantizers=int(rng.integers(1, 3)),
            piecewise=bool(rng.integers(2)),
            bits=int(rng.choice([8, 6, 4, 2])),
            weight_bits=int(rng.choice([8, 6, 4, 2])),
        )
        for _ in range(rng.integers(1, 3))
    ]
    return [*body, Layer(3, shuffle=int(rng.integers(1, 4)))]


def extreme_program() -> GraphModule:
    """Activations 0 and 255, weights -128 and 127, alone and mixed: the largest sums of neighbouring products."""
    program = build_program([Layer(16), Layer(16), Layer(3)], 7)
    rng = np.random.default_rng(7)
    for node in program.graph.nodes:
        if node.target is ops.conv_acc:
            weight = program.get_buffer(node.args[1].target)
            weight.copy_(torch.from_numpy(rng.choice([-128, 127], weight.shape).astype(np.int8)))
            weight[0], weight[1] = -128, 127
            program.get_buffer(node.args[3].target).zero_()
        if node.target is ops.requantize:
            program.get_buffer(node.args[1].target).fill_(2.0**-12)
            program.get_buffer(node.args[3].target).copy_(torch.tensor([128, 0, 255]))
    # What the last layer reads is far outside its range, so it is 0 or 255.
    steep = next(node for node in program.graph.nodes if node.target is ops.requantize)
    program.get_buffer(steep.args[1].target).fill_(1000.0)
    return program


def images(network: Plan) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = [tuple(np.maximum(size, network.minimum_size())) for size in SIZES]
    noise = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    return [*noise, rng.choice([0, 255], (*shapes[1], 3)).astype(np.uint8)]


@pytest.mark.parametrize("isa", MACHINES)
def test_every_form_gives_the_reference_bytes(isa: str, tmp_path: Path) -> None:
    machine = MACHINES[isa]
    if not machine.available:
        pytest.skip(f"{machine.emulator[0]} is not installed (qemu-user)")
    rng = np.random.default_rng(sorted(MACHINES).index(isa))
    programs = [build_program(layers, seed) for seed, layers in enumerate(NETWORKS.values())]
    programs += [build_program(random_chain(rng), seed) for seed in range(2)] + [extreme_program()]
    choose = EveryForm()
    cases = [(program, plan.build(program, isa, choose)) for program in programs]
    large = set() if kernels.ISAS[isa].large_transforms else {"winograd:f4xf4"}
    assert set(choose.chosen) == {"direct", "narrow", *WINOGRAD, *OWN.get(isa, [])} - large
    executable = Emulated([made for _, made in cases], machine, tmp_path, tmp_path / "cache")
    runs = [(program, made, image) for program, made in cases for image in images(made)]
    outputs = executable.run([(made, image) for _, made, image in runs])
    for (program, made, image), output in zip(runs, outputs, strict=True):
        algorithms = [step.spec.algorithm for step in made.steps if isinstance(step.spec, ConvSpec)]
        np.testing.assert_array_equal(output, reference(program, image), err_msg=f"{image.shape} {algorithms}")


@pytest.mark.parametrize("isa", kernels.host_isas())
def test_extreme_values_of_this_machine(isa: str, tmp_path: Path) -> None:
    """Neighbouring products of 255 and -128 or 127 leave 16 bits: an instruction that saturates them would show."""
    program = extreme_program()
    network = HostNetwork(program, isa=isa, cache=tmp_path, choose=EveryForm())
    for image in images(network.plan):
        np.testing.assert_array_equal(network.run(image), reference(program, image))
