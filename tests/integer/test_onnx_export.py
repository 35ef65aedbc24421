"""The exact ONNX form of programs with everything that the operations allow."""

import numpy as np
import onnxruntime
import pytest

from qsearch.integer.onnx_export import export_onnx
from tests.random_programs import Layer, build_program, reference


@pytest.mark.parametrize("piecewise", [False, True])
def test_exact_form_gives_the_same_bytes(piecewise: bool) -> None:
    chain = [Layer(8, piecewise=piecewise, prelu=True), Layer(8, skips=1, bits=5, piecewise=piecewise), Layer(3)]
    program = build_program(chain, seed=int(piecewise))
    image = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    session = onnxruntime.InferenceSession(export_onnx(program, "exact").SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: image.transpose(2, 0, 1)[None]})
    np.testing.assert_array_equal(found[0].transpose(1, 2, 0), reference(program, image))
