"""What every pass needs: copying a graph, finding the module of a node."""

import copy
from typing import Any

from torch import nn
from torch.fx import GraphModule, Node


def copy_graph(graph: GraphModule) -> GraphModule:
    """A deep copy, so that a pass never changes its input."""
    return copy.deepcopy(graph)


def module_of(graph: GraphModule, node: Any) -> nn.Module | None:
    """The module that `node` calls, or None for inputs, outputs and functions."""
    if isinstance(node, Node) and node.op == "call_module":
        return graph.get_submodule(str(node.target))
    return None


def only_user(node: Node) -> Node | None:
    """The single reader of `node`, or None when it has several or none."""
    return next(iter(node.users)) if len(node.users) == 1 else None
