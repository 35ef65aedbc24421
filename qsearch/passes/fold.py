"""Fold batch normalization and constant per-channel multiplications and additions into the convolutions."""

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qsearch.errors import QsearchError
from qsearch.passes.operators import Affine, FusedConv
from qsearch.passes.rewrite import copy_graph, module_of, only_user


def fold_bn(graph: GraphModule) -> GraphModule:
    """A new graph in which every batch normalization is an `Affine` of its evaluation-mode constants."""
    graph = copy_graph(graph)
    for node in list(graph.graph.nodes):
        norm = module_of(graph, node)
        if isinstance(norm, nn.BatchNorm2d):
            if norm.running_mean is None or norm.running_var is None:
                raise QsearchError(f"node {node.name!r}: a BatchNorm without running statistics cannot be folded")
            gain = (norm.running_var.double() + norm.eps).rsqrt()
            gain = gain * norm.weight.double() if norm.affine else gain
            offset = -norm.running_mean.double() * gain
            offset = offset + norm.bias.double() if norm.affine else offset
            graph.set_submodule(str(node.target), Affine(gain, offset))
    graph.recompile()
    return graph


def fold_affine(graph: GraphModule) -> GraphModule:
    """A new graph without `Affine` nodes: those after a convolution go into its weight and bias, one before it into
    its weight, its bias and the value of its padding (a mean shift).

    Raises `QsearchError` naming the node where neither side is a convolution of its own.
    """
    graph = copy_graph(graph)
    for node in list(graph.graph.nodes):
        affine = module_of(graph, node)
        if not isinstance(affine, Affine):
            continue
        source = node.args[0]
        assert isinstance(source, Node)
        conv = module_of(graph, source)
        readers = [module_of(graph, user) for user in node.users]
        if isinstance(conv, FusedConv) and only_user(source):
            _fold_after(conv, affine)
        elif readers and all(isinstance(reader, FusedConv) for reader in readers):
            for reader in readers:
                assert isinstance(reader, FusedConv)
                _fold_before(node, reader, affine)
        elif isinstance(conv, Affine) and only_user(source):
            affine.offset = conv.offset.double() * affine.gain + affine.offset
            affine.gain = conv.gain * affine.gain.double()
            source.replace_all_uses_with(source.args[0], delete_user_cb=lambda user, node=node: user is node)  # type: ignore[arg-type,misc]
            graph.graph.erase_node(source)
            continue
        else:
            raise QsearchError(f"node {node.name!r}: a constant factor or offset with no convolution to take it")
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)
    graph.recompile()
    graph.delete_all_unused_submodules()
    return graph


def _fold_after(conv: FusedConv, affine: Affine) -> None:
    gain = affine.gain.double().expand(conv.bias.numel())
    conv.weight = _parameter(conv.weight.double() * gain.view(-1, 1, 1, 1))
    conv.bias = _parameter(conv.bias.double() * gain + affine.offset.double())


def _fold_before(node: Node, conv: FusedConv, affine: Affine) -> None:
    gain = affine.gain.double().expand(conv.pad_value.numel())
    offset = affine.offset.double().expand(conv.pad_value.numel())
    if (gain == 0).any():
        raise QsearchError(f"node {node.name!r}: a factor of 0 removes a channel; prune it from the network first")
    weight = conv.weight.double()
    per_group = (conv.groups, 1, weight.shape[1], 1, 1)
    grouped = weight.view(conv.groups, -1, *weight.shape[1:])
    conv.bias = _parameter(conv.bias.double() + (grouped * offset.view(per_group)).sum((2, 3, 4)).reshape(-1))
    conv.weight = _parameter((grouped * gain.view(per_group)).reshape(weight.shape))
    conv.pad_value = ((conv.pad_value.double() - offset) / gain).float()


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.float(), requires_grad=False)
