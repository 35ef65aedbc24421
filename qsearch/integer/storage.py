"""The integer program on disk: a readable list of operations and a file of integer parameters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from torch.fx import Graph, GraphModule, Node

from qsearch.errors import QsearchError
from qsearch.files import read_json, write_atomic
from qsearch.integer.ops import OPERATIONS

PROGRAM = "program.json"
PARAMETERS = "program.safetensors"
REAL_VALUES = ("scale", "zero_point", "weight_scale")
"""What an exporter needs to know of the real numbers behind the integers; the integer program runs without it."""
CHANNELS, BOUNDS = "channels", "bounds"
"""Keys of a placeholder's `meta`, for an input that is a feature: its channels, and its least and greatest value."""
LEVELS = "levels"
"""The key for an input that says the level of every pixel: how many there are. See `ops.by_level`."""
_BY_NAME = {operation.__name__: operation for operation in OPERATIONS}


def save_program(program: GraphModule, folder: Path | str) -> None:
    """Write `program.json` and `program.safetensors` to `folder`, atomically, the same bytes for the same program."""
    folder = Path(folder)
    lines = []
    for node in program.graph.nodes:
        if node.op == "get_attr":
            continue
        entry: dict[str, Any] = {"name": node.name, "op": node.op}
        if node.op == "call_function":
            entry["op"] = node.target.__name__
        if node.op != "placeholder":
            entry["args"] = [_encode(argument) for argument in node.args]
        if node.kwargs:
            entry["kwargs"] = dict(node.kwargs)
        real = {key: node.meta[key] for key in REAL_VALUES if key in node.meta}
        if real:
            entry["real"] = real
        if node.op == "placeholder" and CHANNELS in node.meta:
            entry["feature"] = {key: node.meta[key] for key in (CHANNELS, BOUNDS) if key in node.meta}
        if node.op == "placeholder" and LEVELS in node.meta:
            entry["levels"] = node.meta[LEVELS]
        lines.append("  " + json.dumps(entry))
    write_atomic(folder / PROGRAM, '{"nodes": [\n' + ",\n".join(lines) + "\n]}\n")
    # Safetensors refuses tensors that share memory, which equal parameters may.
    buffers = {
        name: value.detach().clone().contiguous()
        for name, value in sorted(program.named_buffers(remove_duplicate=False))
    }
    write_atomic(folder / PARAMETERS, save(buffers))


def load_program(folder: Path | str) -> GraphModule:
    """Read a program that `save_program` wrote; raises `QsearchError` naming the file that is damaged."""
    folder = Path(folder)
    nodes = read_json(folder / PROGRAM)["nodes"]
    try:
        parameters = load((folder / PARAMETERS).read_bytes())
    except (OSError, SafetensorError) as error:
        raise QsearchError(f"cannot read {folder / PARAMETERS}: {error}") from error
    root, graph = nn.Module(), Graph()
    for name, value in parameters.items():
        root.register_buffer(name, value)
    values: dict[str, Node] = {}
    try:
        for entry in nodes:
            values[entry["name"]] = _decode_node(graph, entry, values)
            values[entry["name"]].meta.update({**entry.get("real", {}), **_feature(entry)})
    except (KeyError, TypeError, AttributeError) as error:
        raise QsearchError(f"{folder / PROGRAM} is not an integer program: {error}") from error
    graph.lint()
    program = GraphModule(root, graph)
    for name in parameters.keys() - dict(program.named_buffers()).keys():
        program.register_buffer(name, parameters[name])
    return program


def _feature(entry: dict[str, Any]) -> dict[str, Any]:
    """The `meta` of an input that is a feature or levels; of others nothing."""
    if LEVELS in entry:
        return {LEVELS: int(entry[LEVELS])}
    found = dict(entry.get("feature", {}))
    return {**found, BOUNDS: tuple(found[BOUNDS])} if BOUNDS in found else found


def _encode(argument: Any) -> Any:
    if isinstance(argument, Node):
        return {"parameter": argument.target} if argument.op == "get_attr" else {"node": argument.name}
    return [_encode(item) for item in argument] if isinstance(argument, (list, tuple)) else argument


def _decode_node(graph: Graph, entry: dict[str, Any], values: dict[str, Node]) -> Node:
    def decode(argument: Any) -> Any:
        if isinstance(argument, list):
            return [decode(item) for item in argument]
        if isinstance(argument, dict):
            return graph.get_attr(argument["parameter"]) if "parameter" in argument else values[argument["node"]]
        return argument

    if entry["op"] == "placeholder":
        return graph.placeholder(entry["name"])
    args = tuple(decode(argument) for argument in entry["args"])
    if entry["op"] == "output":
        return graph.output(*args)
    kwargs = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.get("kwargs", {}).items()}
    return graph.create_node("call_function", _BY_NAME[entry["op"]], args, kwargs, name=entry["name"])


def run_program(program: GraphModule, image: torch.Tensor) -> torch.Tensor:
    """The reference executor: uint8 [N, 3, H, W] in, uint8 [N, 3, H·u, W·u] out."""
    with torch.no_grad():
        result: torch.Tensor = program(image)
    return result


def run_image(program: GraphModule, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The reference executor on one image: uint8 [H, W, 3] in, uint8 [H·u, W·u, 3] out."""
    result = run_program(program, torch.from_numpy(image).permute(2, 0, 1)[None].contiguous())
    return result[0].permute(1, 2, 0).contiguous().numpy()


def run_levels(program: GraphModule, image: NDArray[np.uint8], levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same for a program of several levels; `levels` uint8 [H, W] numbers that of every pixel."""
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    with torch.no_grad():
        result: torch.Tensor = program(planes, torch.from_numpy(levels)[None, None])
    return result[0].permute(1, 2, 0).contiguous().numpy()
