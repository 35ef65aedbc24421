"""Hardware-aware quantization search and compiler for image super-resolution networks.

The public names, in the order of the pipeline; each is imported when it is first used, because PyTorch and TVM take
seconds to load.
"""

import importlib
from typing import Any

_HOME = {
    "QsearchError": "qsearch.errors",
    "load": "qsearch.models",
    "build": "qsearch.models",
    "read_pairs": "qsearch.images",
    "read_lr_images": "qsearch.images",
    "train": "qsearch.training",
    "train_quantized": "qsearch.training",
    "prepare": "qsearch.passes",
    "sites": "qsearch.passes",
    "calibrate": "qsearch.quant",
    "fake_quantized": "qsearch.quant",
    "Allocation": "qsearch.allocation",
    "uniform": "qsearch.allocation",
    "lower": "qsearch.integer.lowering",
    "run_program": "qsearch.integer.storage",
    "export_onnx": "qsearch.integer.onnx_export",
    "HostNetwork": "qsearch.compile.host",
    "build_artefact": "qsearch.compile.artefact",
    "verify": "qsearch.compile.run_artefact",
    "CalibratedNetwork": "qsearch.network",
    "Measurer": "qsearch.evaluation",
    "evaluate": "qsearch.evaluation",
    "run_search": "qsearch.search",
    "select": "qsearch.search",
    "write_report": "qsearch.report",
}

__version__ = "0.1.0"
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'qsearch' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
