"""From a float network to a graph with a quantizer at every site, one file per pass, in the order of `PIPELINE`."""

from collections.abc import Callable

from torch import nn
from torch.fx import GraphModule

from qsearch.passes.divide import divide
from qsearch.passes.fold import fold_affine, fold_bn
from qsearch.passes.fuse import fuse
from qsearch.passes.normalize import normalize
from qsearch.passes.operators import FusedConv
from qsearch.passes.quantizers import Quantizer, insert_quantizers, sites
from qsearch.passes.trace import trace

PIPELINE: tuple[Callable[[GraphModule], GraphModule], ...] = (
    normalize,
    fold_bn,
    divide,
    fold_affine,
    fuse,
    insert_quantizers,
)


def prepare(model: nn.Module) -> GraphModule:
    """The graph of `model` with pass-through quantizers at every site; the model is not changed."""
    graph = trace(model)
    for run_pass in PIPELINE:
        graph = run_pass(graph)
    return graph.eval()


__all__ = [
    "PIPELINE",
    "FusedConv",
    "Quantizer",
    "divide",
    "fold_affine",
    "fold_bn",
    "fuse",
    "insert_quantizers",
    "normalize",
    "prepare",
    "sites",
    "trace",
]
