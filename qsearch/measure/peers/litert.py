"""LiteRT (TensorFlow Lite) with XNNPACK, on an int8 file made here or on one of the user's."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qsearch.errors import QsearchError
from qsearch.measure.peers.peer import Peer, Run, Subject
from qsearch.measure.peers.steps import ranges
from qsearch.measure.peers.tflite import write_tflite


def _open(subject: Subject, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    content = _model(subject)
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], [1, *subject.size, 3])
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        what = subject.litert_model or "the network"
        raise QsearchError(f"LiteRT cannot run {what}: {' '.join(str(error).split())[:200]}") from error
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    for tensor in (source, result):
        if tensor["dtype"] != np.uint8:
            raise QsearchError(f"LiteRT: {subject.litert_model} must take and give uint8 images, not {tensor['dtype']}")
    return _runner(interpreter, source["index"], result["index"])


def _runner(interpreter: Any, source: int, result: int) -> Run:
    def run(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        interpreter.set_tensor(source, image[None])
        interpreter.invoke()
        found: NDArray[np.uint8] = interpreter.get_tensor(result)[0]
        return found

    return run


def _model(subject: Subject) -> bytes:
    if subject.litert_model is None:
        found = ranges(subject.steps, subject.inputs)
        return write_tflite(subject.steps, found, subject.model.white, subject.size)
    path = Path(subject.litert_model)
    try:
        return path.read_bytes()
    except OSError as error:
        raise QsearchError(f"cannot read LiteRT model {path}: {error.strerror or error}") from error


PEERS = (Peer("litert", "LiteRT INT8", "ai-edge-litert", _open),)
