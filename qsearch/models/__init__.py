"""Float networks: `load` a trained one, `build` a random one, add an architecture with one file (CONTRIBUTING.md)."""

from qsearch.models.checkpoints import read_metadata, read_state_dict, save_weights
from qsearch.models.loaded import LoadedModel, freeze, to_image, to_input
from qsearch.models.named import with_weights
from qsearch.models.registry import build, bundled_names, bundled_programs, families, load, load_checkpoint

__all__ = [
    "LoadedModel",
    "build",
    "bundled_names",
    "bundled_programs",
    "families",
    "freeze",
    "load",
    "load_checkpoint",
    "read_metadata",
    "read_state_dict",
    "save_weights",
    "to_image",
    "to_input",
    "with_weights",
]
