"""Reading and writing weight files; no code in a file is ever run."""

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from qsearch.errors import QsearchError
from qsearch.files import write_atomic

WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net", "generator")
"""Keys under which training frameworks put the state dict, the averaged weights first."""


def read_state_dict(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a safetensors or PyTorch file, unwrapped, without `module.` prefix.

    Raises `QsearchError` for a file that is missing, damaged or holds code, and for weights that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise QsearchError(f"checkpoint {path} does not exist")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
    state = _unwrap(content, path)
    bad = [name for name, value in state.items() if value.is_floating_point() and not bool(value.isfinite().all())]
    if bad:
        raise QsearchError(f"checkpoint {path}: {some(bad)} holds NaN or infinite weights")
    return state


def read_torch_file(path: Path | str) -> Any:
    """What `torch.load(weights_only=True)` gives, on the CPU; a pickle with code in it is refused, not run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; what cannot be read raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "weights_only" in str(error).lower():
            raise QsearchError(
                f"checkpoint {path} is damaged or holds Python objects besides tensors, and is not run: "
                "save its state dict alone, best as safetensors"
            ) from error
        raise QsearchError(f"checkpoint {path} is damaged or no PyTorch file") from error
    except Exception as error:  # torch.load lets many kinds out for a damaged file
        raise QsearchError(f"checkpoint {path} is damaged or no PyTorch file") from error


def read_metadata(path: Path | str) -> dict[str, Any]:
    """What `save_weights` wrote beside the tensors; empty for other files."""
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("qsearch")
        return dict(json.loads(found)) if found else {}
    except (OSError, SafetensorError, ValueError) as error:
        raise QsearchError(f"checkpoint {path} is damaged or no safetensors file") from error


def save_weights(path: Path | str, module: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write the state dict of `module` as safetensors, atomically, with `metadata` as JSON beside it."""
    state = {name: value.detach().contiguous() for name, value in module.state_dict().items()}
    write_atomic(path, save(state, {"format": "pt", "qsearch": json.dumps(metadata)}))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except (OSError, SafetensorError) as error:
        raise QsearchError(f"checkpoint {path} is damaged or no safetensors file") from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, Mapping):
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    if not isinstance(content, Mapping) or not content:
        raise QsearchError(f"checkpoint {path} holds no state dict: save model.state_dict()")
    strange = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise QsearchError(f"checkpoint {path}: {some(strange)} is no tensor: save model.state_dict() alone")
    prefix = "module."
    if all(str(key).startswith(prefix) for key in content):
        return {str(key).removeprefix(prefix): value for key, value in content.items()}
    return {str(key): value for key, value in content.items()}


def some(names: list[str]) -> str:
    """The first few of `names`, and how many more there are."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
