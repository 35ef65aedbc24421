"""The manifest of an artefact: what it is, where it comes from, and the SHA-256 of every file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qsearch.errors import QsearchError
from qsearch.files import read_json, write_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MANIFEST = "manifest.json"
FORMAT = 2
PATCHES = "patches.json"
"""In an artefact that runs by patches: how it splits images and what its levels are."""
_KEYS = {"executable", "upscale", "halo", "golden", "latency", "files", "checksum"}
GOLDEN = {"input": "golden/input.ppm", "output": "golden/output.ppm"}


def provenance(model: str) -> dict[str, str]:
    """The model's name and the versions of everything that shaped the artefact."""
    packages = {"qsearch": "qsearch", "tvm": "apache-tvm", "torch": "torch", "zig": "ziglang"}
    return {"model": model, **{key: version(package) for key, package in packages.items()}}


def digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file below `folder` but the manifest, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(folder).as_posix(): _digest(path) for path in paths}


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest in `folder`; raises `QsearchError` where there is none, it is of another format or was edited."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise QsearchError(f"{folder} is not an artefact: it has no {MANIFEST}")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not manifest.keys() >= _KEYS:
        raise QsearchError(f"{folder / MANIFEST} is not a manifest of format {FORMAT}")
    if manifest.pop("checksum") != checksum(manifest):
        raise QsearchError(f"{folder / MANIFEST} differs from its own checksum: it was edited or damaged")
    return manifest


def write_manifest(folder: Path | str, manifest: Mapping[str, Any]) -> None:
    """Write `manifest`, sealed with a checksum of itself."""
    write_json(Path(folder) / MANIFEST, {**manifest, "checksum": checksum(manifest)})


def checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the content of a JSON file that is sealed with it."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def damaged_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """One line for every file that is missing or differs from the manifest."""
    problems = []
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif _digest(path) != expected:
            problems.append(f"{name} differs from its SHA-256 in {MANIFEST}")
    return problems


def record_latency(folder: Path | str, result: "DataclassInstance") -> None:
    """Add a latency with its conditions (a `qsearch.measure.BenchResult`) to the manifest of `folder`.

    An earlier one of equal device, size, picture and threads is replaced.
    """
    manifest = read_manifest(folder)
    entry = asdict(result)

    def key(latency: Mapping[str, Any]) -> tuple[Any, ...]:
        where = latency["conditions"]
        return where["device"], tuple(where["size"]), where.get("picture", ""), where["threads"]

    others = [latency for latency in manifest["latency"] if key(latency) != key(entry)]
    write_manifest(folder, {**manifest, "latency": [*others, entry]})


def _digest(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
