"""Artefacts on this machine: whole images at uniform bits against patches, with and without RefER; where time goes."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from subjects import LAYOUT, SEAMLESS, Subject
from trained import CONTROLS, PATCHES, WIDTHS, twin_of

from qsearch.allocation import uniform
from qsearch.compile.artefact import build_artefact
from qsearch.compile.manifest import read_manifest
from qsearch.compile.ppm import encode_ppm
from qsearch.measure.modelled import choice_for
from qsearch.patches import EdgeRule, Layout, ReferencedProgram, StoredPatches, build_patch_artefact, levels_of
from qsearch.samples import photograph
from qsearch.target import load_target

PHOTOGRAPH = "coffee.png"
ROUNDS, RUNS = 12, 3
WHOLE = (8, 6, 5, 4)
LARGE = Layout(96, 8)


def latency(subject: Subject, iterations: int, console: Console) -> dict[str, Any]:
    """Milliseconds of every artefact in interleaved rounds, and the stages of those of patches."""
    image = photograph(PHOTOGRAPH)
    file = subject.folder / "photograph.ppm"
    file.write_bytes(encode_ppm(image))
    artefacts = dict(_artefacts(subject, iterations, console))
    times: dict[str, list[float]] = {name: [] for name in artefacts}
    for round_number in range(ROUNDS):
        order = list(artefacts.items())
        for name, folder in order[:: 1 if round_number % 2 else -1]:
            times[name].append(_run(folder, "--bench", file)["latency_ms"])
    found: dict[str, Any] = {}
    for name, folder in artefacts.items():
        found[name] = {"latency_ms": float(np.median(times[name])), "rounds_ms": times[name]}
        if "levels" in read_manifest(folder):
            found[name] |= _split(_run(folder, "--profile", file)["stages"])
    return {"size": image.shape[:2], "rounds": ROUNDS, "artefacts": found}


def _artefacts(subject: Subject, iterations: int, console: Console) -> Iterator[tuple[str, Path]]:
    """By name, compiled once."""
    network, target = subject.network, load_target("host")
    choose = choice_for(target)
    for bits in WHOLE:
        folder = subject.folder / f"whole-{bits}"
        if not folder.is_dir():
            program = network.program(uniform(network.sites, bits, bits))
            build_artefact(program, folder, target, name="network", model=network.model.name, choose=choose)
        yield f"{bits}", folder
    for name, make in _configurations(subject, iterations, console).items():
        folder = subject.folder / name.replace(" ", "-").replace(",", "")
        if not folder.is_dir():
            build_patch_artefact(make(), folder, target, name="network", choose=choose)
        yield name, folder


def _configurations(subject: Subject, iterations: int, console: Console) -> dict[str, Any]:
    """What makes the stored patches, by name."""
    network = subject.network

    def by_edges(layout: Layout, bits: str = "8-4", relative: bool = False) -> StoredPatches:
        rule = EdgeRule.calibrate(subject.images, layout, [0.5], relative)
        return StoredPatches.of(network, levels_of(network, bits), layout, rule)

    def by_clusters(layout: Layout) -> StoredPatches:
        return StoredPatches.of(network, levels_of(network, "8-4"), layout, replace(subject.clustering, share=0.25))

    def by_refer() -> StoredPatches:
        twin = twin_of(subject, max(WIDTHS), CONTROLS[-1], iterations, console)
        program, policy = ReferencedProgram.of(network, twin), replace(subject.clustering, share=0.25)
        return StoredPatches.of_referenced(network, program, PATCHES, policy)

    return {
        f"8-4 by edges, {LAYOUT.patch}": lambda: by_edges(LAYOUT),
        f"8-4 by edges, {LARGE.patch}": lambda: by_edges(LARGE),
        f"8-4 by clusters, {LAYOUT.patch}": lambda: by_clusters(LAYOUT),
        f"8-4 by edges, seamless {SEAMLESS.patch}": lambda: by_edges(SEAMLESS),
        f"8-4 by clusters, seamless {SEAMLESS.patch}": lambda: by_clusters(SEAMLESS),
        f"6-5 relative, seamless {SEAMLESS.patch}": lambda: by_edges(SEAMLESS, "6-5", relative=True),
        f"8-{max(WIDTHS)} with RefER, {PATCHES.patch}": by_refer,
    }


def _run(folder: Path, option: str, file: Path) -> dict[str, Any]:
    """The JSON line that the artefact's executable prints."""
    words = [str((folder / read_manifest(folder)["executable"]).resolve()), option, str(RUNS), str(file)]
    if "levels" not in read_manifest(folder):
        height, width = photograph(PHOTOGRAPH).shape[:2]
        words[3:] = ["--size", f"{width}x{height}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def _split(stages: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of every stage, and the share of what is outside the bodies."""
    found = {name: stages[f"{name}_ms"] for name in ("decision", "gather", "merge")}
    found["refer"] = sum(stages.get("refer_ms", {}).values())
    found["bodies"] = sum(stages["bodies_ms"].values())
    total = sum(found.values())
    return {"stages": found | {"refer_ms": stages.get("refer_ms")}, "overhead": 1 - found["bodies"] / total}
