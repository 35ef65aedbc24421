"""What a training run keeps to continue after a kill."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsearch.errors import QsearchError
from qsearch.models.checkpoints import read_torch_file

CHECKPOINT = "checkpoint.pt"


@dataclass
class State:
    """What a checkpoint holds, apart from the weights: where the run is and the best validation so far."""

    iteration: int = 0
    best_psnr_db: float = float("nan")
    best_iteration: int | None = None


def checked_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint; `QsearchError` unless it is one, of a run with the same `identity`."""
    content = read_torch_file(path)
    found = content.get("identity") if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise QsearchError(f"{path} is no training checkpoint: use another output folder")
    different = [key for key in {**identity, **found} if found.get(key) != identity.get(key)]
    if different:
        raise QsearchError(
            f"{path} was made with another {', '.join(different)}: give the same, or another output folder"
        )
    return dict(content)
