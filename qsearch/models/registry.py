"""From a name, a checkpoint or a Python factory to a network that is ready to run."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path

import torch
from torch import nn

from qsearch.errors import QsearchError
from qsearch.models.checkpoints import read_state_dict, some
from qsearch.models.family import Family, StateDict
from qsearch.models.loaded import LoadedModel, freeze

BUNDLED = Path(__file__).parent / "weights"
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


@cache
def families() -> dict[str, Family]:
    """Every architecture by name: the modules of this package that define `FAMILY`."""
    package = importlib.import_module("qsearch.models")
    modules = (
        importlib.import_module(f"qsearch.models.{info.name}") for info in pkgutil.iter_modules(package.__path__)
    )
    found = [module.FAMILY for module in modules if isinstance(getattr(module, "FAMILY", None), Family)]
    return {family.name: family for family in sorted(found, key=lambda family: family.name)}


def bundled_names() -> list[str]:
    """The trained networks that come with the package."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def bundled_programs() -> dict[str, Path]:
    """The trained integer networks that come with the package, by name: folders as `qsearch train --bits` writes."""
    return {path.parent.name: path.parent for path in sorted(BUNDLED.glob("*/program.json"))}


def load(name_or_path: str | Path) -> LoadedModel:
    """A trained network: a bundled name, a checkpoint file, or `file.py:factory` (a function that returns a module).

    `file.pt:x2` takes the ×2 head of a checkpoint with heads for several upscales; without it, the largest is taken.
    Raises `QsearchError` for an unknown name, a file that is missing, damaged or holds code, weights that are not
    finite, keys or shapes that fit no architecture, and a factory that fails.
    """
    text = str(name_or_path)
    factory = re.fullmatch(r"(?P<file>.+\.py):(?P<function>\w+)", text)
    if factory:
        return _from_factory(Path(factory["file"]), factory["function"])
    if text in bundled_names():
        return load_checkpoint(BUNDLED / f"{text}.safetensors")
    head = re.fullmatch(r"(?P<file>.+):x(?P<upscale>\d+)", text)
    if head:
        return load_checkpoint(Path(head["file"]), int(head["upscale"]))
    if Path(text).suffix.lower() in CHECKPOINT_SUFFIXES or Path(text).is_file():
        return load_checkpoint(Path(text))
    if text in bundled_programs():
        raise QsearchError(f"{text} is an integer network: give it to `qsearch compile` or `qsearch eval`")
    if is_configuration(text):
        raise QsearchError(
            f"{text} is a configuration without trained weights: train it with `qsearch train {text} --out FOLDER`, or "
            "give a weights file"
        )
    raise QsearchError(
        f"there is no model {text!r}: give {' or '.join(bundled_names())}, a checkpoint file "
        f"({', '.join(CHECKPOINT_SUFFIXES)}) or file.py:factory"
    )


def is_configuration(name: str) -> bool:
    """Whether `name` says an architecture with its depth and width, for which no weights come with the package."""
    return name not in bundled_names() and any(family.parse(name) is not None for family in families().values())


def build(name: str, seed: int = 0) -> LoadedModel:
    """A network of a named configuration such as `edsr_r16f64_x4`, with random weights that depend on `seed` alone.

    For latency and cost, which no weight changes. Raises `QsearchError` for a name that no architecture knows.
    """
    for family in families().values():
        hyperparameters = family.parse(name)
        if hyperparameters is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return _loaded(family, family.build(**hyperparameters), name)
    examples = ", ".join(family.example for family in families().values())
    raise QsearchError(f"there is no configuration {name!r}: names look like {examples}")


def load_checkpoint(path: Path | str, upscale: int | None = None) -> LoadedModel:
    """The network whose state dict is in `path`; its architecture and hyperparameters are read from the keys.

    `upscale` chooses among the heads of a network that has several; the largest is taken without it.
    """
    path = Path(path)
    state = read_state_dict(path)
    for family in families().values():
        module = _fit(family, state, path, upscale)
        if module is not None:
            model = _loaded(family, module, path.stem)
            if upscale not in (None, model.upscale):
                raise QsearchError(f"checkpoint {path} upscales by {model.upscale}, not by {upscale}")
            return model
    raise QsearchError(
        f"checkpoint {path} fits no known architecture ({', '.join(families())}); its keys are {some(list(state))}"
    )


def _fit(family: Family, state: StateDict, path: Path, upscale: int | None) -> nn.Module | None:
    """A module of `family` with exactly the weights of `state`; None where the keys are not of this family."""
    try:
        translated = family.translate(dict(state))
        if translated is None:
            return None
        translated = _one_head(family, translated, path, upscale)
        module = family.build(**family.hyperparameters(translated))
    except KeyError as error:
        raise QsearchError(f"checkpoint {path} looks like {family.name} but lacks {error.args[0]}") from error
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        shapes = some([f"{key} {tuple(value.shape)}" for key, value in state.items()])
        raise QsearchError(f"checkpoint {path} looks like {family.name} but its shapes fit none: {shapes}") from error
    _check_fit(module, translated, f"checkpoint {path} looks like {family.name}")
    module.load_state_dict(translated)
    return module


def _one_head(family: Family, state: StateDict, path: Path, upscale: int | None) -> StateDict:
    try:
        return family.head(state, upscale)
    except ValueError as error:
        raise QsearchError(f"checkpoint {path} does not upscale by {upscale}: {error}") from error


def _check_fit(module: nn.Module, state: StateDict, what: str) -> None:
    """Raise `QsearchError` naming the keys and shapes in which `state` differs from the module."""
    expected = module.state_dict()
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [f"lacks {some(missing)}"] if missing else []
    problems += [f"has unknown {some(unknown)}"] if unknown else []
    problems += [some(shapes)] if shapes else []
    if problems:
        raise QsearchError(f"{what} but {'; '.join(problems)}")


def _loaded(family: Family, module: nn.Module, name: str) -> LoadedModel:
    upscale, white = int(module.upscale), float(module.white)  # type: ignore[arg-type]
    return LoadedModel(freeze(module), name, family.name, upscale, white)


def _from_factory(file: Path, function: str) -> LoadedModel:
    """The module that a user's function returns; its optional attribute `white` says what white is (1.0)."""
    label = f"{file}:{function}"
    if not file.is_file():
        raise QsearchError(f"model file {file} does not exist")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(code)
        factory = getattr(code, function, None)
        if not callable(factory):
            functions = [name for name, _ in inspect.getmembers(code, callable) if not name.startswith("_")]
            raise QsearchError(f"{file} has no function {function!r}; it has {some(functions) or 'none'}")
        module = factory()
    except QsearchError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise QsearchError(f"{label} failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise QsearchError(f"{label} returned a {type(module).__name__}, not a torch.nn.Module")
    bad = [key for key, value in module.state_dict().items() if not bool(value.isfinite().all())]
    if bad:
        raise QsearchError(f"{label}: {some(bad)} holds NaN or infinite weights")
    white = float(getattr(module, "white", 1.0))
    return LoadedModel(freeze(module), function, "custom", _measured_upscale(module, label), white)


def _measured_upscale(module: nn.Module, label: str) -> int:
    """The factor between the sizes of input and output, seen on a small image."""
    height, width = 24, 32
    try:
        with torch.inference_mode():
            shape = tuple(module(torch.zeros(1, 3, height, width)).shape)
    except Exception as error:
        raise QsearchError(f"{label} fails on a 1x3x{height}x{width} image: {error}".splitlines()[0]) from error
    upscale = shape[-1] // width
    if upscale < 1 or shape != (1, 3, height * upscale, width * upscale):
        raise QsearchError(f"{label} turns 1x3x{height}x{width} into {'x'.join(map(str, shape))}: no whole upscale")
    return upscale
