"""A configuration of patches on disk: how images are split, what decides, and the integer program of every level.

patches.json              layout, policy, levels, PSNR and costs; sizes and SHA-256 of the other files
classifier.safetensors    the frozen classifier, where clusters decide
levels/<i>/               allocation and integer program of a level, which holds its ranges and trained parameters
levels/                   the program of all levels, where patches are seamless
levels/1/<s>/, refer/<r>/ with RefER: the programs of queries between repairs, and what each repair is
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from qsearch.compile.host_levels import LevelNetwork
from qsearch.compile.manifest import PATCHES, checksum
from qsearch.errors import QsearchError
from qsearch.files import read_json, staged_folder, write_json
from qsearch.integer.levels import lower_levels
from qsearch.integer.storage import load_program, run_levels, save_program
from qsearch.network import CalibratedNetwork
from qsearch.patches.classifier import Classifier
from qsearch.patches.clusters import Clustering
from qsearch.patches.embed import CLASSIFIER
from qsearch.patches.embed_refer import REFER
from qsearch.patches.execute import Bodies, Level, LevelBodies, PatchPrograms, check_apart
from qsearch.patches.patched import Patched
from qsearch.patches.referenced_bodies import ReferencedBodies, Repair
from qsearch.patches.referenced_network import ReferencedProgram
from qsearch.patches.rule import EdgeRule
from qsearch.patches.seamless import SeamlessPrograms
from qsearch.patches.segments import Executor, Segment, compiled, image_run, interpreted, whole
from qsearch.patches.split import Layout
from qsearch.patches.stored_level import StoredLevel
from qsearch.patches.stored_refer import (
    REPAIR_FILES,
    SEGMENT_FILES,
    check_segments,
    load_repair,
    save_repair,
)

FORMAT = 2
CLASSES, LEVELS = f"{CLASSIFIER}.safetensors", "levels"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,15}")
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class StoredPatches:
    """Everything that turns an image into patches at several allocations; needs neither the model nor its calibration.

    Raises `QsearchError` where levels and policy do not fit together, or a level's name is not short and plain.
    """

    model: str
    upscale: int
    layout: Layout
    policy: EdgeRule | Clustering
    levels: tuple[StoredLevel, ...]
    score: Mapping[str, Any] = field(default_factory=dict)
    """PSNR with its protocol, and costs, where they were measured."""
    repairs: tuple[Repair, ...] = ()
    """RefER between the segments of the queries, which are those of the last level."""
    program: GraphModule | None = None
    """The integer program of all levels, where patches are seamless."""

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        for name in names:
            if not _NAME.fullmatch(name) or name in (CLASSIFIER, REFER) or names.count(name) > 1:
                raise QsearchError(f"level {name!r} needs a name of its own of at most 16 letters, digits and _.+-")
        if not isinstance(self.policy, (EdgeRule, Clustering)):
            raise QsearchError(f"only edges and clusters can be stored, not {type(self.policy).__name__}")
        wanted = 2 if isinstance(self.policy, Clustering) else len(self.policy.thresholds) + 1
        if len(names) != wanted:
            raise QsearchError(f"the policy decides among {wanted} levels, and there are {len(names)}")
        if self.repairs and not isinstance(self.policy, Clustering):
            raise QsearchError("RefER needs a policy that clusters, such as Clustering: edges name no references")
        if (self.program is not None) != self.layout.seamless:
            raise QsearchError("seamless patches need one program of all levels, and others need none")
        if self.program is None:
            check_segments([level.segments for level in self.levels], self.repairs)

    @staticmethod
    def of(
        network: CalibratedNetwork,
        levels: Sequence[Level],
        layout: Layout,
        policy: EdgeRule | Clustering,
        score: Mapping[str, Any] | None = None,
    ) -> "StoredPatches":
        """What `PatchNetwork` does with the same arguments; raises `QsearchError` for networks with strides."""
        name, upscale = network.model.name, network.model.upscale
        if layout.seamless:
            together = tuple(StoredLevel.of(network, level, ()) for level in levels)
            program = lower_levels([level.version(network) for level in levels])
            return StoredPatches(name, upscale, layout, policy, together, score or {}, program=program)
        stored = tuple(StoredLevel.of(network, level, (whole(level.program(network)),)) for level in levels)
        return StoredPatches(name, upscale, layout, policy, stored, score or {})

    @staticmethod
    def of_referenced(
        network: CalibratedNetwork,
        program: ReferencedProgram,
        layout: Layout,
        policy: Clustering,
        score: Mapping[str, Any] | None = None,
    ) -> "StoredPatches":
        """What `ReferencedNetwork` does with the same arguments; raises `QsearchError` as `of` does, and for a layout
        that is seamless.
        """
        check_apart(layout)
        (high, low), model = program.levels, network.model
        levels = StoredLevel.of(network, high, (program.high,)), StoredLevel.of(network, low, program.segments)
        return StoredPatches(model.name, model.upscale, layout, policy, levels, score or {}, program.repairs)

    def executor(self, threads: int | None = None) -> Patched:
        """Runs images on the compiled kernels of this machine."""
        if self.program is not None:
            return self._seamless(LevelNetwork(self.program, threads).run_levels)
        return self._programs(partial(compiled, threads=threads))

    def reference(self, image: Image) -> Image:
        """The upscaled image from the reference executor of the integer programs."""
        if self.program is not None:
            return self._seamless(partial(run_levels, self.program)).run(image).image
        return self._programs(interpreted).run(image).image

    def _seamless(self, run: Callable[[Image, Image], Image]) -> SeamlessPrograms:
        names = [level.name for level in self.levels]
        return SeamlessPrograms(run, self._level_bitops, names, self.layout, self.policy, self.upscale)

    def _programs(self, make: Callable[[Segment], Executor]) -> PatchPrograms:
        names = [level.name for level in self.levels]
        segments = [level.segments for level in self.levels]
        bodies: Bodies
        if self.repairs:
            bodies = ReferencedBodies(segments[0][0], segments[1], self.repairs, make, self._level_bitops)
        else:
            bodies = LevelBodies([image_run(part, make(part)) for (part,) in segments], self._level_bitops)
        return PatchPrograms(bodies, names, self.layout, self.policy, self.upscale)

    def _level_bitops(self, rows: int, columns: int) -> list[int]:
        return [level.bitops_per_pixel * rows * columns for level in self.levels]

    def save(self, folder: Path | str) -> None:
        """Write the new folder `folder`, atomically; raises `QsearchError` where it holds anything."""
        with staged_folder(folder) as staging:
            self.write(staging)

    def write(self, folder: Path) -> None:
        """Write the files into a folder that is there."""
        levels = [level.save(folder / _level(index)) for index, level in enumerate(self.levels)]
        repairs = [save_repair(repair, folder / _repair(index)) for index, repair in enumerate(self.repairs)]
        if self.program is not None:
            save_program(self.program, folder / LEVELS)
        if isinstance(self.policy, Clustering):
            self.policy.classifier.save(folder / CLASSES)
        content = {
            "format": FORMAT,
            "model": self.model,
            "upscale": self.upscale,
            "layout": asdict(self.layout),
            "policy": _described(self.policy),
            "levels": levels,
            "repairs": repairs,
            "score": dict(self.score),
            "files": {name: _digest(folder / name) for name in self._files()},
        }
        write_json(folder / PATCHES, {**content, "checksum": checksum(content)})

    def _files(self) -> Iterator[str]:
        for index, level in enumerate(self.levels):
            yield from (f"{_level(index)}/{name}" for name in level.files())
        for index in range(len(self.repairs)):
            yield from (f"{_repair(index)}/{name}" for name in REPAIR_FILES)
        if self.program is not None:
            yield from (f"{LEVELS}/{name}" for name in SEGMENT_FILES)
        if isinstance(self.policy, Clustering):
            yield CLASSES

    @staticmethod
    def load(folder: Path | str) -> "StoredPatches":
        """Read what `save` wrote, also from an artefact; raises `QsearchError` naming the file that is damaged."""
        folder = Path(folder)
        if not (folder / PATCHES).is_file():
            raise QsearchError(f"{folder} holds no configuration of patches: it has no {PATCHES}")
        content = _checked(folder)
        try:
            levels = [StoredLevel.load(folder / _level(index), entry) for index, entry in enumerate(content["levels"])]
            repairs = [load_repair(folder / _repair(index), entry) for index, entry in enumerate(content["repairs"])]
            policy = _policy(content["policy"], folder)
            layout = Layout(**content["layout"])
            program = load_program(folder / LEVELS) if layout.seamless else None
            model, upscale, score = str(content["model"]), int(content["upscale"]), dict(content["score"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise QsearchError(f"{folder / PATCHES} is not a configuration of patches: {error}") from error
        return StoredPatches(model, upscale, layout, policy, tuple(levels), score, tuple(repairs), program)


def _level(index: int) -> str:
    return f"{LEVELS}/{index}"


def _repair(index: int) -> str:
    return f"refer/{index}"


def _described(policy: EdgeRule | Clustering) -> dict[str, Any]:
    if isinstance(policy, EdgeRule):
        return {"kind": "edges", "thresholds": list(policy.thresholds), "relative": policy.relative}
    return {"kind": "clusters", "reading": policy.reading, "share": policy.share}


def _policy(content: Mapping[str, Any], folder: Path) -> EdgeRule | Clustering:
    if content["kind"] == "edges":
        return EdgeRule(tuple(int(value) for value in content["thresholds"]), bool(content.get("relative", False)))
    if content["kind"] == "clusters":
        return Clustering(Classifier.load(folder / CLASSES), content["reading"], content["share"])
    raise QsearchError(f"{folder / PATCHES}: nothing decides by {content['kind']!r}")


def _checked(folder: Path) -> dict[str, Any]:
    """The content of patches.json, once it and every file are whole."""
    content = read_json(folder / PATCHES)
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("files"), dict):
        raise QsearchError(f"{folder / PATCHES} is not a configuration of patches of format {FORMAT}")
    if content.pop("checksum", None) != checksum(content):
        raise QsearchError(f"{folder / PATCHES} differs from its own checksum: it was edited or damaged")
    for name, expected in content["files"].items():
        if not (folder / name).is_file():
            raise QsearchError(f"{folder / name} is missing: make the configuration again")
        if _digest(folder / name) != expected:
            raise QsearchError(f"{folder / name} is damaged: it differs from its SHA-256 in {PATCHES}")
    return content


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
