"""`qsearch search --models`: one study per network, in one folder, under one budget; and finding the chosen one again.

models.json     the networks: the names of their run folders and what `load` takes
<network>/      a run folder as `qsearch search` makes it for one network
front.json      the non-dominated trials over all networks so far
selected.json   the run and the point that `select` chose
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from qsearch.commands.search import SELECTED, search_run
from qsearch.errors import QsearchError
from qsearch.files import read_json, write_atomic, write_json
from qsearch.models import load, with_weights
from qsearch.run import CONFIG, Run, RunConfig
from qsearch.search import front, load_history, parse_budget, parse_objectives
from qsearch.search.budget import Budget
from qsearch.search.history import FRONT

MODELS = "models.json"


def search_models(
    models: Sequence[str], weights: Path | None, out: Path, config: RunConfig, budget: str, console: Console
) -> dict[str, Any]:
    """Search every network of `models` with its share of `budget`; the same call continues a search that was killed.

    `config` says everything but the network; configurations find their weights in the folder `weights`. Raises
    `QsearchError`, before anything is written, for a network without weights, for networks of several upscales and
    for a folder that holds another search.
    """
    found = _networks(models, weights)
    shares = split(parse_budget(budget), len(found))
    _claim(out, found)
    runs = {name: Run.create(out / name, replace(config, model=source)) for name, source in found.items()}
    write_json(out / MODELS, {"models": found})
    for (name, run), share in zip(runs.items(), shares, strict=True):
        console.rule(name)
        search_run(run, share, console)
        best = write_models_front(out)
    console.print(f"{len(best)} trials on the front of {len(runs)} networks; {out / FRONT}")
    trials = sum(len(load_history(out / name / "search").points) for name in runs)
    return {"run": str(out), "models": found, "trials": trials, "front": best}


def _networks(models: Sequence[str], weights: Path | None) -> dict[str, str]:
    """What `load` takes for every network, by the name of its run folder."""
    found: dict[str, str] = {}
    upscales: dict[str, int] = {}
    for model in models:
        source = with_weights(model, weights)
        # A user's file is named by its factory, weights of a configuration by the configuration.
        stem = model if source != model else model.rpartition(":")[2] if ".py:" in model else Path(model).stem
        name = re.sub(r"[^\w.-]+", "_", stem)
        if name in found:
            raise QsearchError(f"--models names {name} twice")
        found[name], upscales[name] = source, load(source).upscale
    if not found:
        raise QsearchError("--models names no network")
    if len(set(upscales.values())) > 1:
        listed = ", ".join(f"{name} ×{upscale}" for name, upscale in upscales.items())
        raise QsearchError(f"networks of different upscales cannot be compared: {listed}")
    return found


def split(budget: Budget, count: int) -> list[str]:
    """Equal shares of a budget, as texts; raises `QsearchError` for fewer trials than networks."""
    if budget.trials is None:
        return [f"{(budget.seconds or 0.0) / count:.3f}s"] * count
    if budget.trials < count:
        raise QsearchError(f"{budget.trials} trials are too few for {count} networks")
    return [str(budget.trials // count + (index < budget.trials % count)) for index in range(count)]


def _claim(out: Path, found: dict[str, str]) -> None:
    if (out / MODELS).is_file():
        known = read_json(out / MODELS)["models"]
        if known != found:
            raise QsearchError(
                f"{out} holds a search of other networks ({', '.join(known)}): choose another --out folder"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise QsearchError(f"{out} exists and holds no search of several networks: choose another --out folder")


def write_models_front(out: Path) -> list[dict[str, Any]]:
    """Write the front over all networks, atomically, and return its points without their allocations."""
    runs = [folder for folder in run_folders([out]) if (folder / "search").is_dir()]
    histories = {folder.name: load_history(folder / "search") for folder in runs}
    objectives = parse_objectives([o.name for o in next(iter(histories.values())).objectives])
    # Points of several runs: a number alone does not name one.
    owners = {id(point): name for name, history in histories.items() for point in history.points}
    best = front([point for history in histories.values() for point in history.points], objectives)
    rows = [{"network": owners[id(p)], "point": p.number, "metrics": p.metrics,
             "allocation": p.allocation.model_dump(exclude_defaults=True)} for p in best]  # fmt: skip
    head = {"objectives": [objective.name for objective in objectives], "networks": list(histories)}
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_atomic(out / FRONT, f'{json.dumps(head)[:-1]}, "points": [\n{lines}\n]}}\n')
    return [{"network": owners[id(p)], "point": p.number, **p.metrics} for p in best]


def run_folders(folders: Sequence[Path]) -> list[Path]:
    """The run folders of single networks in `folders`, which may be of several networks each.

    A network whose search has not begun is left out.
    """
    found = []
    for folder in folders:
        if (folder / MODELS).is_file():
            found += [
                folder / name for name in read_json(folder / MODELS)["models"] if (folder / name / CONFIG).is_file()
            ]
        else:
            found.append(folder)
    return found


def network_name(run: Run) -> str:
    """What a person calls the network of a run: a configuration's weights may be in a file of any name."""
    return run.folder.name if (run.folder.parent / MODELS).is_file() else run.model.name


def keep_choice(folders: Sequence[Path], run: Path) -> None:
    """Note in those of `folders` that hold several networks which run holds the selected point."""
    for folder in folders:
        if (folder / MODELS).is_file() and run.parent == folder:
            write_json(folder / SELECTED, {"run": run.name})


def chosen_run(folder: Path) -> Path:
    """The run folder that `folder` stands for: itself, or of several networks the one that `select` chose."""
    if not (folder / MODELS).is_file():
        return folder
    if not (folder / SELECTED).is_file():
        raise QsearchError(f"no network of {folder} is selected: run `qsearch select` first")
    return folder / str(read_json(folder / SELECTED)["run"])
