"""A level of a configuration of patches on disk: its allocation and its integer program, whole or in segments.

Seamless levels are in one program together, and none has its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qsearch import cost
from qsearch.allocation import Allocation
from qsearch.errors import QsearchError
from qsearch.network import CalibratedNetwork
from qsearch.patches.execute import Level
from qsearch.patches.segments import Segment
from qsearch.patches.stored_refer import SEGMENT_FILES, load_segment, save_segment

ALLOCATION = "allocation.json"


@dataclass(frozen=True)
class StoredLevel:
    """One allocation that a patch may get."""

    name: str
    allocation: Allocation
    segments: tuple[Segment, ...]
    """Its integer program: one, or with RefER as many as there are parts between repairs; none where it is seamless."""
    bitops_per_pixel: int
    """Of one LR pixel, RefER not counted."""

    @staticmethod
    def of(network: CalibratedNetwork, level: Level, segments: tuple[Segment, ...]) -> "StoredLevel":
        """A level of `network` whose program is in `segments`; raises `QsearchError` for networks with strides."""
        return StoredLevel(level.name, level.allocation, segments, _bitops_per_pixel(network, level))

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the files of a level to `folder`; gives what `load` wants besides."""
        self.allocation.save(folder / ALLOCATION)
        places = [folder / place for place in _places(len(self.segments))]
        wired = [save_segment(*part) for part in zip(self.segments, places, strict=True)]
        return {"name": self.name, "bitops_per_pixel": self.bitops_per_pixel, "segments": wired}

    @staticmethod
    def load(folder: Path, entry: Mapping[str, Any]) -> "StoredLevel":
        """Read what `save` wrote; raises `QsearchError` naming the file that is damaged."""
        wired = entry["segments"]
        places = [folder / place for place in _places(len(wired))]
        segments = tuple(load_segment(*part) for part in zip(places, wired, strict=True))
        allocation = Allocation.load(folder / ALLOCATION)
        return StoredLevel(str(entry["name"]), allocation, segments, int(entry["bitops_per_pixel"]))

    def files(self) -> Iterator[str]:
        """What `save` writes, below its folder."""
        yield ALLOCATION
        for place in _places(len(self.segments)):
            yield from (str(place / name) for name in SEGMENT_FILES)


def _places(segments: int) -> list[PurePosixPath]:
    """The folders of the programs, below that of the level."""
    return [PurePosixPath(".")] if segments == 1 else [PurePosixPath(str(index)) for index in range(segments)]


def _bitops_per_pixel(network: CalibratedNetwork, level: Level) -> int:
    one, two = (cost.bitops(network.layers((16, width)), level.allocation) for width in (16, 32))
    if two != 2 * one or one % 256:
        raise QsearchError(f"{network.model.name} cannot run by patches: it needs padded convolutions without strides")
    return one // 256
