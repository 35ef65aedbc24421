"""The result of fine-tuning: the grids, integer weights and biases of one allocation of one calibrated network."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.fx import GraphModule

from qsearch.allocation import Allocation
from qsearch.errors import QsearchError
from qsearch.files import write_atomic
from qsearch.passes.operators import FusedConv
from qsearch.quant.grid import Grid, WeightGrid


@dataclass(frozen=True)
class FineTuned:
    """Explicit quantizer parameters, which replace those that calibration gives."""

    allocation: Allocation
    calibrated: str
    """The fingerprint of the calibrated network that it belongs to."""
    grids: dict[str, Grid]
    """By activation site; what reads the image has none."""
    weights: dict[str, WeightGrid]
    """By convolution."""
    biases: dict[str, Tensor]
    """float32 [Co] by convolution."""

    def check(self, graph: GraphModule, allocation: Allocation) -> None:
        """Raise `QsearchError` unless it was made for `allocation` of the calibrated network `graph`."""
        if self.calibrated != fingerprint(graph):
            raise QsearchError("the fine-tuned parameters belong to another network or calibration: fine-tune this one")
        if self.allocation != allocation:
            raise QsearchError("the fine-tuned parameters belong to another allocation: use theirs, or fine-tune this")

    def save(self, path: Path | str) -> None:
        """Write one safetensors file, atomically; the allocation is in its metadata."""
        tensors = {}
        for site, grid in self.grids.items():
            tensors[f"{site}:scale"] = torch.tensor(grid.scale, dtype=torch.float32)
            tensors[f"{site}:bounds"] = torch.tensor(grid.bounds, dtype=torch.int32)
        for name, weight in self.weights.items():
            tensors[f"{name}:values"] = weight.values.contiguous()
            tensors[f"{name}:weight_scale"] = weight.scale.contiguous()
            tensors[f"{name}:bias"] = self.biases[name].contiguous()
        metadata = {"allocation": self.allocation.to_json(), "calibrated": self.calibrated}
        write_atomic(path, save(tensors, metadata=metadata))

    @staticmethod
    def load(path: Path | str) -> "FineTuned":
        """Read what `save` wrote; raises `QsearchError` for another file."""
        if not Path(path).is_file():
            raise QsearchError(f"{path} is no file of fine-tuned parameters")
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata()
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                allocation = Allocation.model_validate_json(metadata["allocation"])
                calibrated = metadata["calibrated"]
                names = [key.removesuffix(":values") for key in found if key.endswith(":values")]
                weights = {name: WeightGrid(found[f"{name}:values"], found[f"{name}:weight_scale"]) for name in names}
                biases = {name: found[f"{name}:bias"] for name in names}
        except (OSError, SafetensorError, KeyError, TypeError, ValidationError) as error:
            raise QsearchError(f"{path} holds no fine-tuned parameters: {error}") from error
        grids = {}
        for key, bounds in found.items():
            if key.endswith(":bounds"):
                site = key.removesuffix(":bounds")
                zero_point, lo, hi, *pieces = bounds.tolist()
                grids[site] = Grid(
                    float(found[f"{site}:scale"]),
                    zero_point,
                    lo,
                    hi,
                    tuple(pieces) if pieces else None,
                )
        return FineTuned(allocation, calibrated, grids, weights, biases)


def fingerprint(graph: GraphModule) -> str:
    """Changes with any weight of a calibrated network, and so with its channels' equalization."""
    digest = hashlib.sha256()
    for module in graph.modules():
        if isinstance(module, FusedConv):
            digest.update(module.name.encode())
            for tensor in (module.weight, module.bias):
                digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
