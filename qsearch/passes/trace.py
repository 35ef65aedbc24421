"""From a module to a graph: torch.fx, or `torch.export` where fx cannot follow the Python code."""

import torch
from torch import nn
from torch.fx import GraphModule, Tracer

from qsearch.errors import QsearchError


def trace(model: nn.Module) -> GraphModule:
    """The graph of `model` in evaluation mode, the model itself unchanged.

    torch.fx keeps the module names; data-dependent Python control flow needs `torch.export`, which is tried next with
    a dynamic height and width. Raises `QsearchError` with the reason of both when neither works.
    """
    try:
        graph = Tracer().trace(model)
        return GraphModule(model, graph)
    except Exception as fx_error:
        try:
            return _export(model)
        except Exception as export_error:
            raise QsearchError(
                f"cannot trace {type(model).__name__}: torch.fx says {_first_line(fx_error)}; "
                f"torch.export says {_first_line(export_error)}"
            ) from export_error


def _export(model: nn.Module) -> GraphModule:
    height, width = torch.export.Dim("height", min=8), torch.export.Dim("width", min=8)
    example = torch.zeros(1, 3, 24, 32)
    program = torch.export.export(model, (example,), dynamic_shapes=({2: height, 3: width},))
    module = program.module()
    assert isinstance(module, GraphModule)
    return module


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
