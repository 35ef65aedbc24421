"""Peak bytes of the activations while the integer program runs."""

from torch.fx import GraphModule, Node

from qsearch.integer import ops


def peak_bytes(program: GraphModule, height: int, width: int) -> int:
    """Largest sum of bytes of live tensors for an LR image of `height` × `width`, input and output image included.

    Every lattice value takes one byte, as in the compiled network; index maps and accumulators take none, because the
    kernels fuse them. A tensor lives from the kernel that writes it to the last kernel that reads it.
    """
    sizes = _sizes(program, height, width)
    nodes = [node for node in program.graph.nodes if node in sizes]
    order = {node: index for index, node in enumerate(program.graph.nodes)}
    end = len(order)
    last = {node: max((_last_read(user, order, end) for user in node.users), default=end) for node in nodes}
    peak = 0
    for now in (order[node] for node in nodes):
        peak = max(peak, sum(sizes[node] for node in nodes if order[node] <= now <= last[node]))
    return peak


def _last_read(node: Node, order: dict[Node, int], end: int) -> int:
    """When the kernel that a reader belongs to has written all its outputs."""
    if node.op == "output":
        return end
    if node.target is ops.requantize:
        return order[node]
    return max((_last_read(user, order, end) for user in node.users), default=order[node])


def _sizes(program: GraphModule, height: int, width: int) -> dict[Node, int]:
    """Bytes of the image and of every requantized tensor."""
    shape: dict[Node, tuple[int, int, int]] = {}
    sizes: dict[Node, int] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            shape[node] = (3, height, width)
            sizes[node] = 3 * height * width
        elif node.target is ops.conv_acc:
            weight = program.get_buffer(str(node.args[1].target))
            _, rows, columns = shape[node.args[0]]
            pad, stride = node.kwargs["padding"], node.kwargs["stride"]
            rows = (rows + 2 * pad[0] - weight.shape[2]) // stride + 1
            columns = (columns + 2 * pad[1] - weight.shape[3]) // stride + 1
            shape[node] = (weight.shape[0], rows, columns)
        elif node.target is ops.pixel_shuffle:
            c, rows, columns = shape[node.args[0]]
            r = node.args[1]
            shape[node] = (c // r**2, rows * r, columns * r)
        elif node.target is ops.repeat_channels:
            c, rows, columns = shape[node.args[0]]
            shape[node] = (c * node.args[1], rows, columns)
        elif node.target is ops.concat:
            parts = [shape[part] for part in node.args[0]]
            shape[node] = (sum(c for c, _, _ in parts), *parts[0][1:])
        elif node.target in (ops.add_skip, ops.requantize):
            shape[node] = shape[node.args[0]]
            if node.target is ops.requantize:
                c, rows, columns = shape[node]
                sizes[node] = c * rows * columns
    return sizes
