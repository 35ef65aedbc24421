"""Names of configurations, such as `edsr_r8f32_x3`, and the trained weights that go with them."""

import inspect
import re
from pathlib import Path

from qsearch.errors import QsearchError
from qsearch.models.checkpoints import read_state_dict
from qsearch.models.registry import CHECKPOINT_SUFFIXES, families, is_configuration


def with_weights(name: str, folder: Path | str | None = None) -> str:
    """What `load` takes for `name`: `name` itself, or for a configuration its trained weights in `folder`.

    Weights of a configuration are a file of its name, or `<name>/weights.safetensors` as `qsearch train` writes it, or
    any other file in the folder of exactly its architecture, depth and width. Raises `QsearchError` where there are
    none, and for a file of the name that is another network.
    """
    if not is_configuration(name):
        return name
    way_out = f"train it with `qsearch train {name} --out FOLDER`, or give a weights file or --weights-folder"
    if folder is None:
        raise QsearchError(f"{name} is a configuration without trained weights: {way_out}")
    folder = Path(folder)
    if not folder.is_dir():
        raise QsearchError(f"weights folder {folder} does not exist")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in CHECKPOINT_SUFFIXES)
    named = [path for path in files if path.stem == name]
    trained = folder / name / "weights.safetensors"
    for path in [*named, *([trained] if trained.is_file() else [])]:
        if not _is_of(name, path):
            raise QsearchError(f"weights {path} are not of {name}: their depth, width or architecture differ")
        return str(path)
    for path in files:
        if _is_of(name, path):
            return str(path)
    raise QsearchError(f"{folder} has no weights of {name}: {way_out}")


def _is_of(name: str, path: Path) -> bool:
    """Whether the file has the architecture and the hyperparameters that `name` says; other files are passed over."""
    try:
        state = read_state_dict(path)
    except QsearchError:
        return False
    for family in families().values():
        wanted = family.parse(name)
        if wanted is None:
            continue
        # What the name leaves out is the architecture's usual choice.
        usual = {key: value.default for key, value in inspect.signature(family.build).parameters.items()}
        wanted = {**{key: usual[key] for key in re.compile(family.named).groupindex if key in usual}, **wanted}
        try:
            translated = family.translate(dict(state))
            found = None if translated is None else family.hyperparameters(family.head(translated, None))
        except (ArithmeticError, IndexError, KeyError, RuntimeError, TypeError, ValueError, QsearchError):
            return False
        return found is not None and all(found.get(key) == value for key, value in wanted.items())
    return False
