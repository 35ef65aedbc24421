"""RefER on disk: the programs between which it is, and the integers of every repair.

A segment is `program.json` and `program.safetensors`; a repair is that of its fusion and `matching.safetensors`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from qsearch.errors import QsearchError
from qsearch.files import write_atomic
from qsearch.integer.storage import PARAMETERS, PROGRAM, load_program, save_program
from qsearch.patches.deployed import DeployedRefER
from qsearch.patches.fusion import Fusion
from qsearch.patches.matching import Matching
from qsearch.patches.referenced_bodies import Repair
from qsearch.patches.segments import Segment
from qsearch.quant.grid import Grid

MATCHING = "matching.safetensors"
SEGMENT_FILES = (PROGRAM, PARAMETERS)
REPAIR_FILES = (*SEGMENT_FILES, MATCHING)
_NUMBERS = ("weight", "factor", "table")


def save_segment(segment: Segment, folder: Path) -> dict[str, Any]:
    """Write the program of a segment to `folder`; gives what `load_segment` wants besides."""
    save_program(segment.module, folder)
    return {"inputs": list(segment.inputs), "outputs": list(segment.outputs)}


def load_segment(folder: Path, entry: Mapping[str, Any]) -> Segment:
    """Read what `save_segment` wrote; raises `QsearchError` naming the file that is damaged."""
    inputs, outputs = (tuple(map(str, entry[key])) for key in ("inputs", "outputs"))
    return Segment(load_program(folder), inputs, outputs)


def save_repair(repair: Repair, folder: Path) -> dict[str, Any]:
    """Write the integers of a repair to `folder`; gives what `load_repair` wants besides."""
    matching, fusion = repair.refer.matching, repair.refer.fusion
    tensors = {name: getattr(matching, name) for name in _NUMBERS}
    tensors |= {f"unmoved.{index}": codes for index, codes in enumerate(fusion.unmoved) if codes is not None}
    content = save({name: torch.from_numpy(values.copy()) for name, values in sorted(tensors.items())})
    wiring = save_segment(fusion.segment, folder)
    write_atomic(folder / MATCHING, content)
    return {
        "query": repair.query,
        "readers": list(repair.readers),
        "reference": repair.reference,
        "grid": asdict(repair.refer.grid),
        "reduce": matching.reduce,
        "carrier": fusion.carrier,
        "fusion": wiring,
    }


def load_repair(folder: Path, entry: Mapping[str, Any]) -> Repair:
    """Read what `save_repair` wrote; raises `QsearchError` naming the file that is damaged."""
    tensors = _tensors(folder / MATCHING)
    grid, readers, carrier = Grid(**entry["grid"]), tuple(map(str, entry["readers"])), entry["carrier"]
    weight, factor, table = (tensors[name] for name in _NUMBERS)
    matching = Matching(weight, factor, table, int(entry["reduce"]), grid.zero_point)
    unmoved = tuple(None if index == carrier else tensors[f"unmoved.{index}"] for index in range(len(readers)))
    fusion = Fusion(load_segment(folder, entry["fusion"]), carrier, unmoved)
    return Repair(DeployedRefER(grid, matching, fusion), str(entry["query"]), readers, str(entry["reference"]))


def check_segments(levels: Sequence[Sequence[Segment]], repairs: Sequence[Repair]) -> None:
    """Raise `QsearchError` unless every level has one segment, but the last one more than there are repairs."""
    wanted = [1] * (len(levels) - 1) + [1 + len(repairs)]
    if [len(segments) for segments in levels] != wanted:
        raise QsearchError(f"{len(repairs)} RefERs do not fit levels of {[len(one) for one in levels]} segments")


def _tensors(path: Path) -> dict[str, Any]:
    """The arrays in a file, by name."""
    try:
        return {name: tensor.numpy() for name, tensor in load(path.read_bytes()).items()}
    except (OSError, SafetensorError) as error:
        raise QsearchError(f"cannot read {path}: {error}") from error
