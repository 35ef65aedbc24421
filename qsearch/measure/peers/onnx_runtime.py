"""ONNX Runtime: float32, and quantized by its own tool (QDQ, unsigned activations, signed per-channel weights)."""

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from qsearch.measure.peers.float_onnx import float_onnx
from qsearch.measure.peers.peer import Peer, Run, Subject


def session(model: onnx.ModelProto, threads: int) -> Run:
    """A model from `image` to `upscaled` as a function of an image."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    opened = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def run(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        result: NDArray[np.uint8] = opened.run(None, {"image": image})[0]
        return result

    return run


def quantized(floating: onnx.ModelProto, images: Iterable[NDArray[np.uint8]]) -> onnx.ModelProto:
    """`floating` quantized by ONNX Runtime's own tool on `images`."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(floating, source)
        logging.getLogger().addFilter(_no_advice)
        try:
            quantize_static(
                source,
                target,
                _Reader(images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.getLogger().removeFilter(_no_advice)
        return onnx.load(target)


def _no_advice(record: logging.LogRecord) -> bool:
    """The tool advises a pass that changes nothing here: shapes are known and there is nothing to fuse."""
    return "pre-processing before quantization" not in record.getMessage()


class _Reader(CalibrationDataReader):
    def __init__(self, images: Iterable[NDArray[np.uint8]]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image}


def _open_int8(subject: Subject, threads: int) -> Run:
    return session(quantized(float_onnx(subject.steps, subject.model.white), subject.crops), threads)


def _open_float(subject: Subject, threads: int) -> Run:
    return session(float_onnx(subject.steps, subject.model.white), threads)


PEERS = (
    Peer("onnxruntime", "ONNX Runtime INT8", "onnxruntime", _open_int8),
    Peer("onnxruntime-fp32", "ONNX Runtime FP32", "onnxruntime", _open_float),
)
