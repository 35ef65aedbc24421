"""Fuse convolution, skip operands and activation into one node, the unit that one integer kernel computes."""

import torch
from torch import nn
from torch.fx import GraphModule, Node

from qsearch.errors import QsearchError
from qsearch.passes.channels import channels_of, selection
from qsearch.passes.operators import Add, Clip, FusedConv
from qsearch.passes.rewrite import copy_graph, module_of, only_user

ACTIVATIONS = (nn.ReLU, nn.PReLU, Clip)


def fuse(graph: GraphModule) -> GraphModule:
    """A new graph of `FusedConv`, pixel shuffles and channel copies only.

    An addition joins the later of its convolutions; the sum of two pixel shuffles becomes the shuffle of a sum, and an
    activation behind a pixel shuffle moves before it. A sum or an activation that no convolution can take gets an
    identity 1×1 convolution.
    """
    graph = copy_graph(graph)
    _join_shuffles(graph)
    _swap_shuffles(graph)
    for node in list(graph.graph.nodes):
        module = module_of(graph, node)
        if isinstance(module, Add):
            _fuse_add(graph, node)
        elif isinstance(module, ACTIVATIONS):
            _fuse_activation(graph, node, module)
    graph.graph.lint()
    graph.recompile()
    graph.delete_all_unused_submodules()
    return graph


def _join_shuffles(graph: GraphModule) -> None:
    """shuffle + shuffle becomes the shuffle of the sum, so that the sum meets its convolution at low resolution."""
    for node in list(graph.graph.nodes):
        if not isinstance(module_of(graph, node), Add):
            continue
        operands = [arg for arg in node.args if isinstance(arg, Node)]
        shuffles = [module_of(graph, operand) for operand in operands if only_user(operand) is node]
        factors = [shuffle.upscale_factor for shuffle in shuffles if isinstance(shuffle, nn.PixelShuffle)]
        if len(factors) != 2 or factors[0] != factors[1] or operands[0] is operands[1]:
            continue
        first, second = operands
        node.replace_all_uses_with(second)
        node.args = (first.args[0], second.args[0])
        second.args = (node,)
        node.append(second)
        graph.graph.erase_node(first)


def _swap_shuffles(graph: GraphModule) -> None:
    """shuffle → activation becomes activation → shuffle, so that the activation meets its convolution."""
    for node in list(graph.graph.nodes):
        shuffle = module_of(graph, node)
        after = only_user(node)
        activation = module_of(graph, after)
        if not isinstance(shuffle, nn.PixelShuffle) or not isinstance(activation, ACTIVATIONS):
            continue
        assert after is not None
        if isinstance(activation, nn.PReLU) and activation.num_parameters > 1:
            slopes = activation.weight.repeat_interleave(shuffle.upscale_factor**2)
            activation = nn.PReLU(slopes.numel())
            activation.weight.data = slopes.detach().clone()
        after.replace_all_uses_with(node)
        after.args = (node.args[0],)
        node.args = (after,)
        node.prepend(after)
        graph.set_submodule(str(after.target), activation)


def _open_conv(graph: GraphModule, node: Node) -> FusedConv | None:
    """The fused convolution of `node` if another operation may still join it."""
    conv = module_of(graph, node)
    return conv if isinstance(conv, FusedConv) and only_user(node) and conv.activation == "none" else None


def _fuse_add(graph: GraphModule, node: Node) -> None:
    order = {n: i for i, n in enumerate(graph.graph.nodes)}
    operands = [arg for arg in node.args if isinstance(arg, Node)]
    open_operands = [arg for arg in operands if _open_conv(graph, arg) is not None]
    if operands[0] is operands[1]:
        raise QsearchError(f"node {node.name!r}: the sum of a value with itself is not supported; double the weights")
    joined = max(open_operands, key=order.__getitem__) if open_operands else operands[0]
    skip = operands[1] if joined is operands[0] else operands[0]
    target = joined if open_operands else _identity(graph, joined, node)
    _move_join(graph, target, node, (skip,))


def _fuse_activation(graph: GraphModule, node: Node, module: nn.Module) -> None:
    source = node.args[0]
    assert isinstance(source, Node)
    target = source if _open_conv(graph, source) is not None else _identity(graph, source, node)
    conv = module_of(graph, target)
    assert isinstance(conv, FusedConv)
    if isinstance(module, nn.ReLU):
        conv.activation = "relu"
    elif isinstance(module, nn.PReLU):
        conv.activation = "prelu"
        conv.slope = module.weight.detach().float().expand(conv.bias.numel()).clone()
    elif isinstance(module, Clip):
        conv.activation, conv.clip = "clip", (module.lo, module.hi)
    _move_join(graph, target, node, ())


def _move_join(graph: GraphModule, target: Node, node: Node, skips: tuple[Node, ...]) -> None:
    """`target` takes the place of `node`, with further skip operands."""
    node.prepend(target)
    target.args = (*target.args, *skips)
    conv = module_of(graph, target)
    assert isinstance(conv, FusedConv)
    for _ in skips:
        conv.skip_gains.append(nn.Parameter(torch.ones(conv.bias.numel()), requires_grad=False))
    node.replace_all_uses_with(target)
    graph.graph.erase_node(node)


def _identity(graph: GraphModule, source: Node, before: Node) -> Node:
    """A 1×1 identity convolution of `source`, placed before `before`."""
    channels = channels_of(graph, source)
    name = f"{before.name}_identity"
    fused = selection(name, channels, 0, channels)
    graph.add_submodule(name, fused)
    with graph.graph.inserting_before(before):
        return graph.graph.call_module(name, (source,))
