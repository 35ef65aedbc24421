"""The folder of a search of patches: a run whose trials are settings, with the allocations that patches may get.

run.json, calibration.safetensors   model, images and calibration, as of every run
patches/space.json                  what is searched
patches/levels/                     the allocations, and the trained parameters of those that were polished
patches/                            what the search leaves (see `qsearch.patches.search`)
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qsearch.allocation import Allocation
from qsearch.commands.search import bits_label
from qsearch.errors import QsearchError
from qsearch.files import read_json, write_atomic, write_json
from qsearch.network import CalibratedNetwork
from qsearch.patches.execute import Level, levels_of
from qsearch.patches.scoring import PatchScorer
from qsearch.patches.search import CLASSIFIERS
from qsearch.patches.setting import PatchSpace
from qsearch.quant.finetuned import FineTuned
from qsearch.run import CALIBRATION, CONFIG, Run, RunConfig, calibration_images
from qsearch.search import Point, front, load_history, parse_objectives

MOST_LEVELS = 8
"""Points of a front that patches may get; they lie evenly between its dearest and its cheapest."""
SPACE = "space.json"


@dataclass(frozen=True)
class PatchRun:
    """A run folder and the space of settings that is searched in it."""

    run: Run
    space: PatchSpace

    @property
    def folder(self) -> Path:
        """What the search reads and writes."""
        return self.run.folder / "patches"

    @staticmethod
    def create(
        out: Path,
        config: RunConfig,
        space: PatchSpace,
        source: Path | None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "PatchRun":
        """The search in `out`, new or the same one continued.

        The levels of `space` are uniform bits; with the run `source` they are points of its front instead, and its
        calibration is taken over. Raises `QsearchError` where another search lives there.
        """
        made = PatchRun(Run.create(out, config), space)
        if (made.folder / SPACE).is_file():
            known = _read(made.folder)
            wanted = made._content(source)
            ignored = {"levels"} if source is not None else set()  # they were chosen when the search began
            differing = [key for key in wanted if key not in ignored and wanted[key] != known.get(key)]
            if differing:
                raise QsearchError(
                    f"{out} holds another search: its {', '.join(differing)} differ; choose another --out folder"
                )
            return PatchRun.open(out)
        points = [] if source is None else _points(source)
        if source is not None:
            made = replace(made, space=replace(space, levels=tuple(level.name for level in points)))
            if not (out / CALIBRATION).is_file():
                write_json(out / CONFIG, asdict(config))
                write_atomic(out / CALIBRATION, (source / CALIBRATION).read_bytes())
        network = made.run.network(progress)
        for level in points or levels_of(network, "-".join(space.levels)):
            level.allocation.save(made._level(level.name, "json"))
            if level.finetuned is not None:
                level.finetuned.save(made._level(level.name, "safetensors"))
        write_json(made.folder / SPACE, made._content(source))
        return made

    @staticmethod
    def open(folder: Path) -> "PatchRun":
        """The search in `folder`; raises `QsearchError` where there is none."""
        place = folder / "patches"
        if not (place / SPACE).is_file():
            raise QsearchError(f"{folder} holds no search of patches: there is no patches/{SPACE} in it")
        content = _read(place)
        content.pop("source", None)
        try:
            space = PatchSpace(**{name: tuple(values) for name, values in content.items()})
        except TypeError as error:
            raise QsearchError(f"{place / SPACE} is not of this version: {error}") from error
        return PatchRun(Run.open(folder), space)

    def scorer(self, network: CalibratedNetwork) -> PatchScorer:
        """Measures settings as this search does."""
        config = self.run.config
        images = calibration_images(config.calibration, self.run.model.upscale, config.calibration_limit)
        folder, largest = self.folder / CLASSIFIERS, max(self.space.patches)
        return PatchScorer(network, self.levels(), self.run.pairs, images, folder, largest, config.threads, config.seed)

    def levels(self) -> list[Level]:
        """The allocations, from high to low."""
        found = []
        for name in self.space.levels:
            tuned = self._level(name, "safetensors")
            finetuned = FineTuned.load(tuned) if tuned.is_file() else None
            found.append(Level(name, Allocation.load(self._level(name, "json")), finetuned))
        return found

    def _level(self, name: str, kind: str) -> Path:
        return self.folder / "levels" / f"{name}.{kind}"

    def _content(self, source: Path | None) -> dict[str, Any]:
        content = {name: list(values) for name, values in asdict(self.space).items()}
        return {**content, **({} if source is None else {"source": str(source.resolve())})}


def _read(place: Path) -> dict[str, Any]:
    content = read_json(place / SPACE)
    if not isinstance(content, dict):
        raise QsearchError(f"{place / SPACE} is not what a search of patches wrote")
    return content


def _points(source: Path) -> list[Level]:
    """Points of the front of PSNR against BitOPs of a run, from the dearest to the cheapest."""
    run = Run.open(source)
    history = load_history(source / "search")
    found = _spread(front(history.points, parse_objectives("psnr_y_db,bitops"))[::-1])
    if len(found) < 2:
        raise QsearchError(f"{source} has {len(found)} points on its front; patches need two: continue its search")
    return [
        Level(f"p{point.number}-{bits_label(point.allocation)}", point.allocation, run.finetuned(point))
        for point in found
    ]


def _spread(points: Sequence[Point]) -> list[Point]:
    """At most `MOST_LEVELS` of the points, about evenly in the logarithm of their BitOPs; the ends are among them."""
    if len(points) <= MOST_LEVELS:
        return list(points)
    places = np.log([point.metrics["bitops"] for point in points])
    wanted = np.linspace(places[0], places[-1], MOST_LEVELS)
    return [points[index] for index in sorted({int(np.abs(places - place).argmin()) for place in wanted})]
