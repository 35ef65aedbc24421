"""OpenVINO, quantized by NNCF's post-training quantization (mixed preset: signed weights, asymmetric activations)."""

import contextlib
import logging
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch.measure.peers.float_onnx import float_onnx
from qsearch.measure.peers.peer import Peer, Run, Subject

TOLERATED = 8.0
"""Mean difference in grey levels that rounding in another order can make, with room to spare."""


def _open(subject: Subject, threads: int) -> Run:
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)
    core = openvino.Core()
    # NNCF calibrates on crops, the device runs images of one size.
    model = core.read_model(float_onnx(subject.steps, subject.model.white).SerializeToString())
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars are no result
        quantized = nncf.quantize(
            model,
            nncf.Dataset(subject.crops, lambda crop: {"image": crop}),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(subject.crops),
        )
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    dynamic = _runner(core.compile_model(quantized, "CPU", options))
    quantized.reshape({"image": [*subject.size, 3]})
    static = _runner(core.compile_model(quantized, "CPU", options))
    # A fixed size is faster, but the CPU plugin (seen in 2026.4) then gives another picture for some networks.
    image = np.ascontiguousarray(np.resize(subject.crops[0], (*subject.size, 3)))
    difference = static(image).astype(np.int16) - dynamic(image)
    return static if float(np.abs(difference).mean()) < TOLERATED else dynamic


def _runner(compiled: Any) -> Run:
    request = compiled.create_infer_request()

    def run(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        request.infer({"image": image}, share_inputs=True)
        result: NDArray[np.uint8] = request.get_output_tensor(0).data.copy()
        return result

    return run


PEERS = (Peer("openvino", "OpenVINO INT8", "openvino", _open),)
