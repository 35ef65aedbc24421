"""Programs cut into segments: the kernels give the bytes of the operations, whatever crosses the cuts."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import GraphModule, Node

from qsearch.compile.host import HostNetwork
from qsearch.compile.plan import build
from qsearch.errors import QsearchError
from qsearch.integer import ops
from qsearch.patches.segments import IMAGE, Executor, Segment, compiled, cut, interpreted, replaced
from tests.random_programs import Layer, build_program, layers, reference

IMAGE_SIZE = (11, 19)
CHAIN = [Layer(8), Layer(8, quantizers=2), Layer(12, joins=1), Layer(8, skips=2), Layer(3, shuffle=2)]


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*IMAGE_SIZE, 3), np.uint8)


def by_accumulator(program: GraphModule) -> list[list[Node]]:
    """The requantized values of every accumulator but the last."""
    found: dict[Node, list[Node]] = {}
    for node in program.graph.nodes:
        if node.target is ops.requantize:
            found.setdefault(node.args[0], []).append(node)
    return list(found.values())[:-1]


def run(segments: list[Segment], cuts: list[list[Node]], executor: Callable[[Segment], Executor]) -> np.ndarray:
    """The image, where every replaced value is replaced by itself."""
    values = {IMAGE: pixels()}
    for index, segment in enumerate(segments):
        outputs = executor(segment)(values)
        assert not set(outputs) & set(values), "nothing is computed twice"
        values |= outputs
        if index < len(cuts):
            values |= {replaced(node.name): values[node.name] for node in cuts[index]}
    return values[segments[-1].outputs[0]]


SAME_SIZE = layers(resizing=False).filter(lambda chain: all(layer.shuffle == 1 for layer in chain[:-1]))


@settings(max_examples=12, deadline=None)
@given(SAME_SIZE, st.integers(0, 99), st.data())
def test_cut_anywhere_it_has_the_bytes_of_the_whole(chain: list[Layer], seed: int, data: st.DataObject) -> None:
    program = build_program(chain, seed)
    cuts = [group for group in by_accumulator(program) if data.draw(st.booleans())]
    segments = cut(program, cuts)
    expected = reference(program, pixels())
    np.testing.assert_array_equal(run(segments, cuts, interpreted), expected)
    np.testing.assert_array_equal(run(segments, cuts, compiled), expected)


def test_values_cross_several_cuts() -> None:
    program = build_program(CHAIN, 1)
    cuts = by_accumulator(program)
    segments = cut(program, cuts)
    assert len(segments) == len(cuts) + 1
    assert any(len(set(segment.inputs) - {IMAGE}) > 1 for segment in segments)
    for executor in (interpreted, compiled):
        np.testing.assert_array_equal(run(segments, cuts, executor), reference(program, pixels()))


def test_later_readers_see_the_replacement() -> None:
    program = build_program([Layer(8), Layer(8), Layer(3)], 0)
    cuts = by_accumulator(program)[:1]
    first, second = cut(program, cuts)
    (name,) = first.outputs
    values = interpreted(first)({IMAGE: pixels()})[name]
    moved = {replaced(name): np.ascontiguousarray(values[::-1])}
    got, expected = compiled(second)(moved), interpreted(second)(moved)
    np.testing.assert_array_equal(*(result[second.outputs[0]] for result in (got, expected)))
    assert not np.array_equal(got[second.outputs[0]], reference(program, pixels()))


def test_inputs_of_a_part_are_checked() -> None:
    first, second = cut(*(lambda p: (p, by_accumulator(p)[:1]))(build_program([Layer(6), Layer(3)], 0)))
    network, name = HostNetwork(second.module), second.inputs[0]
    with pytest.raises(QsearchError, match=f"input '{name}' must be uint8 \\[4, 5, 6\\], not uint8 \\[4, 5, 8\\]"):
        network.run_part(None, {name: np.zeros((4, 5, 8), np.uint8)})
    with pytest.raises(QsearchError, match="takes no image"):
        network.run_part(pixels(), {name: np.zeros((*IMAGE_SIZE, 6), np.uint8)})
    with pytest.raises(QsearchError, match="part of a network"):
        network.run(pixels())
    with pytest.raises(QsearchError, match="takes an image"):
        HostNetwork(first.module).run_part(None, {name: np.zeros((4, 5, 6), np.uint8)})
    assert not build(second.module, "generic").whole


def test_a_value_of_another_size_cannot_cross() -> None:
    program = build_program([Layer(8, stride=2), Layer(3, shuffle=2)], 0)
    with pytest.raises(QsearchError, match="must have the size of the image"):
        cut(program, by_accumulator(program))
