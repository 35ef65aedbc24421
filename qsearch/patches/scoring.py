"""Scores of settings: every patch is upscaled once for each layout, allocation and ranges, and then only summed up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qsearch.compile.host import HostNetwork
from qsearch.compile.host_levels import LevelNetwork
from qsearch.images import Pair, Tile
from qsearch.integer.levels import lower_levels
from qsearch.metrics import luma
from qsearch.network import CalibratedNetwork
from qsearch.patches.classifier import Classifier
from qsearch.patches.clusters import Clustering
from qsearch.patches.decisions import Constant, Decisions
from qsearch.patches.errors import psnr_of, squared_error
from qsearch.patches.execute import Level, level_bitops
from qsearch.patches.ranges import OwnRanges
from qsearch.patches.rule import EdgeRule
from qsearch.patches.seamless import seamless_bitops
from qsearch.patches.setting import CLUSTERS, RELATIVE, SMOOTH, Setting, Whole
from qsearch.patches.split import Layout, level_map, overwork

_WHOLE = Layout(1 << 20)
"""Any image is one patch of it."""
Image = NDArray[np.uint8]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Configuration:
    """What a setting is made of: the levels with their ranges, as the policy numbers them, and what decides."""

    levels: tuple[Level, ...]
    layout: Layout
    policy: EdgeRule | Clustering | Constant
    decisions: tuple[Decisions, ...]
    """For every image pair."""


class PatchScorer:
    """Measures settings and whole images of one network on image pairs, on the compiled integer kernels.

    Of an upscaled patch only its squared error is kept, 8 bytes in memory for as long as the scorer lives: PSNR of
    cropped patches is a sum over them. Seamless settings run whole images, each setting anew. Classifiers are kept in
    `folder`, because their training is no integer arithmetic. `levels` are the allocations; those with trained
    parameters keep these, whatever the setting's ranges. Policies and ranges come from `lr_images`, uint8 [H, W, 3].
    Not for concurrent calls.
    """

    def __init__(
        self,
        network: CalibratedNetwork,
        levels: Sequence[Level],
        pairs: Sequence[Pair],
        lr_images: Sequence[Image],
        folder: Path,
        largest: int,
        threads: int | None = None,
        seed: int = 0,
    ) -> None:
        """`largest` is the side of the patches whose ranges whole images may have."""
        self.network, self.pairs, self.lr_images = network, pairs, lr_images
        self.levels = {level.name: level for level in levels}
        self._folder, self._largest, self._threads, self._seed = folder, Layout(largest), threads, seed
        self._originals = [luma(pair.hr) for pair in pairs]
        self._host: HostNetwork | None = None
        self._seamless: tuple[tuple[Any, ...], LevelNetwork] | None = None
        """The last one that ran, and the levels that it is of."""
        self._errors: dict[Any, list[NDArray[np.float64]]] = {}
        self._kept: dict[Any, Any] = {}

    def measure(self, tried: Setting | Whole) -> dict[str, float]:
        """`psnr_y_db`, `bitops` (with overlap and decisions), `high_share` and `overwork`, means over the images.

        Of whole images the better of common and own ranges counts: `own_ranges` 1 says that it is own.
        """
        if isinstance(tried, Setting):
            return self._metrics(self.configuration(tried), self._keys(tried), tried.high)
        found = {
            own: self._metrics(self.whole(tried, own), [("whole", tried.level, own)], tried.level)
            for own in ([False] if self.levels[tried.level].finetuned else [False, True])
        }
        best = max(found, key=lambda own: found[own]["psnr_y_db"])
        return {**found[best], "own_ranges": float(best)}

    def configuration(self, setting: Setting) -> Configuration:
        """Everything that a setting needs to run."""
        policy = self.policy(setting)
        levels = [self.levels[name] for name in setting.levels]
        chosen = (self._ranged(level, index, setting) for index, level in enumerate(levels))
        return Configuration(tuple(chosen), setting.layout, policy, self._decided(setting, "pairs"))

    def whole(self, whole: Whole, own_ranges: bool) -> Configuration:
        """Whole images at one allocation, with the ranges of calibration or those of patches of calibration images."""
        level = self.levels[whole.level]
        if own_ranges:
            own = self._once(("all",), lambda: self.own_ranges(self._largest).of_all())
            level = replace(level, calibrated=own)
        policy = Constant()
        decisions = [policy.decide(pair.lr, self._split(pair, _WHOLE)) for pair in self.pairs]
        return Configuration((level,), _WHOLE, policy, tuple(decisions))

    def policy(self, setting: Setting) -> EdgeRule | Clustering:
        """What decides: an edge rule calibrated, or a classifier trained, on the LR images."""
        if setting.policy != CLUSTERS:
            share = 1 - setting.share if setting.policy == SMOOTH else setting.share
            calibrate: Callable[[], EdgeRule] = lambda: EdgeRule.calibrate(  # noqa: E731
                self.lr_images, setting.layout, [share], setting.policy == RELATIVE
            )
            return self._once(("edges", setting.decided), calibrate)
        name = f"{setting.patch}-{setting.classes}"  # textures do not depend on the overlap
        return replace(self._once(("classes", name), lambda: self._clustering(setting, name)), share=setting.share)

    def _clustering(self, setting: Setting, name: str) -> Clustering:
        stored = self._folder / f"{name}.safetensors"
        if stored.is_file():
            return Clustering(Classifier.load(stored))
        made = Clustering.train(self.network, self.lr_images, Layout(setting.patch), setting.classes, self._seed)
        made.classifier.save(stored)
        return made

    def _ranged(self, level: Level, index: int, setting: Setting) -> Level:
        """The level with its own ranges, where the setting has them and a recorded patch is at the level."""
        if not setting.own_ranges or level.finetuned is not None:
            return level
        ranges, decided = self.own_ranges(setting.layout), self._decided(setting, "calibration")
        if not any(decided[number].levels[patch] == index for number, patch in ranges.places):
            return level
        return replace(level, calibrated=ranges.decided(index, decided))

    def own_ranges(self, layout: Layout) -> OwnRanges:
        """Ranges of whichever calibration patches a policy puts at a level."""
        make: Callable[[], OwnRanges] = lambda: OwnRanges(self.network, self.lr_images, layout, self._seed)  # noqa: E731
        return self._once(("own", layout), make)

    def _decided(self, setting: Setting, kind: str) -> tuple[Decisions, ...]:
        """Decisions for the LR images of the pairs, or for those of calibration."""

        def decide() -> tuple[Decisions, ...]:
            images = [pair.lr for pair in self.pairs] if kind == "pairs" else self.lr_images
            policy = self.policy(setting)
            return tuple(policy.decide(image, setting.layout.split(*image.shape[:2])) for image in images)

        return self._once((kind, setting.decided), decide)

    def _keys(self, setting: Setting) -> list[Any]:
        """What the results of each level depend on, besides the layout."""
        own = setting.own_ranges
        return [(name, (setting.decided, index) if own else None) for index, name in enumerate(setting.levels)]

    def _metrics(self, made: Configuration, keys: Sequence[Any], high: str) -> dict[str, float]:
        if made.layout.seamless:
            self._run_seamless(made, keys)
        else:
            for index, (level, key) in enumerate(zip(made.levels, keys, strict=True)):
                self._fill(level, made, index, (made.layout, key))
        upscale, rows = self.network.model.upscale, []
        for number, pair in enumerate(self.pairs):
            patches, decisions = self._split(pair, made.layout), made.decisions[number]
            height, width = pair.lr.shape[:2]
            if made.layout.seamless:
                error, work = float(self._errors[self._seamless_key(made, keys)][number][0]), 1.0
                bitops = seamless_bitops(partial(self._bitops, made.levels), patches, decisions)
            else:
                errors = [self._errors[made.layout, keys[level]][number] for level in range(len(keys))]
                error = sum(float(errors[level][index]) for index, level in enumerate(decisions.levels))
                box, work = patches[0].input, overwork(patches, height, width)
                each = self._bitops(made.levels, box.bottom - box.top, box.right - box.left)
                bitops = sum(each[level] for level in decisions.levels)
            quality = psnr_of(error, height * upscale, width * upscale, upscale)
            rows.append((quality, bitops + made.policy.bitops(patches), work))
        psnr_y_db, mean_bitops, work = (float(value) for value in np.mean(rows, axis=0))
        counted = [made.levels[level].name == high for found in made.decisions for level in found.levels]
        return {
            "psnr_y_db": psnr_y_db,
            "bitops": mean_bitops,
            "high_share": sum(counted) / len(counted),
            "overwork": work,
        }

    def _seamless_key(self, made: Configuration, keys: Sequence[Any]) -> Any:
        return made.layout, tuple(keys), tuple(decisions.levels for decisions in made.decisions)

    def _run_seamless(self, made: Configuration, keys: Sequence[Any]) -> None:
        """The error of every image as a whole: a patch's depends on the levels of its neighbours."""
        key = self._seamless_key(made, keys)
        if key in self._errors:
            return
        if self._seamless is None or self._seamless[0] != tuple(keys):
            program = lower_levels([level.version(self.network) for level in made.levels])
            self._seamless = tuple(keys), LevelNetwork(program, self._threads)
        network, found, upscale = self._seamless[1], [], self.network.model.upscale
        for number, (pair, decisions) in enumerate(zip(self.pairs, made.decisions, strict=True)):
            size = pair.lr.shape[:2]
            (image,) = _WHOLE.split(*size)
            levels = level_map(self._split(pair, made.layout), decisions.levels, *size)
            result = network.run_levels(np.ascontiguousarray(pair.lr), levels)
            found.append(np.array([squared_error(result, image, self._originals[number], upscale, upscale)]))
        self._errors[key] = found

    def _fill(self, level: Level, made: Configuration, index: int, key: Any) -> None:
        """Upscale the patches that are at the level and whose errors are not known."""
        split = [self._split(pair, made.layout) for pair in self.pairs]
        known = self._errors.setdefault(key, [np.full(len(patches), np.nan) for patches in split])
        missing = [
            (number, patch)
            for number, decisions in enumerate(made.decisions)
            for patch, chosen in enumerate(decisions.levels)
            if chosen == index and np.isnan(known[number][patch])
        ]
        if not missing:
            return
        run, upscale = self._running(level), self.network.model.upscale
        for number, patch in missing:
            tile = split[number][patch]
            result = run(np.ascontiguousarray(self.pairs[number].lr[tile.input.slices]))
            known[number][patch] = squared_error(result, tile, self._originals[number], upscale, upscale)

    def _running(self, level: Level) -> Callable[[Image], Image]:
        program = level.program(self.network)
        if self._host is None:
            self._host = HostNetwork(program, self._threads)
        else:
            self._host.set_program(program)
        return self._host.run

    def _bitops(self, levels: Sequence[Level], height: int, width: int) -> list[int]:
        def count(level: Level) -> Callable[[], int]:
            return lambda: level_bitops(self.network, [level], height, width)[0]

        return [self._once(("bitops", level.name, height, width), count(level)) for level in levels]

    def _split(self, pair: Pair, layout: Layout) -> list[Tile]:
        return self._once(("split", layout, pair.lr.shape), lambda: layout.split(*pair.lr.shape[:2]))

    def _once(self, key: Any, make: Callable[[], Found]) -> Found:
        """What `make` gives, made the first time."""
        if key not in self._kept:
            self._kept[key] = make()
        found: Found = self._kept[key]
        return found
