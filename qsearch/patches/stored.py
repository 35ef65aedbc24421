"""A configuration of patches on disk: how images are split, what decides, and the integer program of every level.

patches.json              layout, policy, levels, PSNR and costs; sizes and SHA-256 of the other files
classifier.safetensors    the frozen classifier, where clusters decide
levels/<i>/               allocation and integer program of a level, which holds its ranges and trained parameters
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

from qsearch import cost
from qsearch.allocation import Allocation
from qsearch.compile.host import HostNetwork
from qsearch.compile.manifest import PATCHES, checksum
from qsearch.errors import QsearchError
from qsearch.files import read_json, staged_folder, write_json
from qsearch.integer.storage import PARAMETERS, PROGRAM, load_program, run_image, save_program
from qsearch.network import CalibratedNetwork
from qsearch.patches.classifier import Classifier
from qsearch.patches.clusters import Clustering
from qsearch.patches.embed import CLASSIFIER
from qsearch.patches.execute import Level, PatchPrograms
from qsearch.patches.rule import EdgeRule
from qsearch.patches.split import Layout

FORMAT = 1
ALLOCATION, CLASSES = "allocation.json", f"{CLASSIFIER}.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,15}")
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class StoredLevel:
    """One allocation that a patch may get."""

    name: str
    allocation: Allocation
    program: GraphModule
    bitops_per_pixel: int
    """Of one LR pixel."""


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

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        for name in names:
            if not _NAME.fullmatch(name) or name == CLASSIFIER or names.count(name) > 1:
                raise QsearchError(f"level {name!r} needs a name of its own of at most 16 letters, digits and _.+-")
        if not isinstance(self.policy, (EdgeRule, Clustering)):
            raise QsearchError(f"only edges and clusters can be stored, not {type(self.policy).__name__}")
        wanted = 2 if isinstance(self.policy, Clustering) else len(self.policy.thresholds) + 1
        if len(names) != wanted:
            raise QsearchError(f"the policy decides among {wanted} levels, and there are {len(names)}")

    @staticmethod
    def of(
        network: CalibratedNetwork,
        levels: Sequence[Level],
        layout: Layout,
        policy: EdgeRule | Clustering,
        score: Mapping[str, Any] | None = None,
    ) -> "StoredPatches":
        """What `PatchNetwork` does with the same arguments; raises `QsearchError` for networks with strides."""
        stored = tuple(
            StoredLevel(level.name, level.allocation, level.program(network), _bitops_per_pixel(network, level))
            for level in levels
        )
        return StoredPatches(network.model.name, network.model.upscale, layout, policy, stored, score or {})

    def executor(self, threads: int | None = None) -> PatchPrograms:
        """Runs images on the compiled kernels of this machine."""
        return self._programs([HostNetwork(level.program, threads).run for level in self.levels])

    def reference(self, image: Image) -> Image:
        """The upscaled image from the reference executor of the integer programs."""
        return self._programs([partial(run_image, level.program) for level in self.levels]).run(image).image

    def _programs(self, runs: Sequence[Callable[[Image], Image]]) -> PatchPrograms:
        names = [level.name for level in self.levels]
        per_pixel = [level.bitops_per_pixel for level in self.levels]
        return PatchPrograms(
            runs, names, self.layout, self.policy, self.upscale, lambda h, w: [n * h * w for n in per_pixel]
        )

    def save(self, folder: Path | str) -> None:
        """Write the new folder `folder`, atomically; raises `QsearchError` where it holds anything."""
        with staged_folder(folder) as staging:
            self.write(staging)

    def write(self, folder: Path) -> None:
        """Write the files into a folder that is there."""
        for index, level in enumerate(self.levels):
            place = folder / "levels" / str(index)
            save_program(level.program, place)
            level.allocation.save(place / ALLOCATION)
        if isinstance(self.policy, Clustering):
            self.policy.classifier.save(folder / CLASSES)
        content = {
            "format": FORMAT,
            "model": self.model,
            "upscale": self.upscale,
            "layout": asdict(self.layout),
            "policy": _described(self.policy),
            "levels": [{"name": level.name, "bitops_per_pixel": level.bitops_per_pixel} for level in self.levels],
            "score": dict(self.score),
            "files": {name: _digest(folder / name) for name in self._files()},
        }
        write_json(folder / PATCHES, {**content, "checksum": checksum(content)})

    def _files(self) -> Iterator[str]:
        for index in range(len(self.levels)):
            yield from (f"levels/{index}/{name}" for name in (ALLOCATION, PROGRAM, PARAMETERS))
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
            levels = [
                StoredLevel(
                    entry["name"],
                    Allocation.load(folder / "levels" / str(index) / ALLOCATION),
                    load_program(folder / "levels" / str(index)),
                    int(entry["bitops_per_pixel"]),
                )
                for index, entry in enumerate(content["levels"])
            ]
            policy = _policy(content["policy"], folder)
            layout = Layout(**content["layout"])
            model, upscale, score = str(content["model"]), int(content["upscale"]), dict(content["score"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise QsearchError(f"{folder / PATCHES} is not a configuration of patches: {error}") from error
        return StoredPatches(model, upscale, layout, policy, tuple(levels), score)


def _bitops_per_pixel(network: CalibratedNetwork, level: Level) -> int:
    one, two = (cost.bitops(network.layers((16, width)), level.allocation) for width in (16, 32))
    if two != 2 * one or one % 256:
        raise QsearchError(f"{network.model.name} cannot run by patches: it needs padded convolutions without strides")
    return one // 256


def _described(policy: EdgeRule | Clustering) -> dict[str, Any]:
    if isinstance(policy, EdgeRule):
        return {"kind": "edges", "thresholds": list(policy.thresholds)}
    return {"kind": "clusters", "reading": policy.reading, "share": policy.share}


def _policy(content: Mapping[str, Any], folder: Path) -> EdgeRule | Clustering:
    if content["kind"] == "edges":
        return EdgeRule(tuple(int(value) for value in content["thresholds"]))
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
