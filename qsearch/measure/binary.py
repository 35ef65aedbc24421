"""Whether an artefact can run on a target, found out before anything is copied."""

from pathlib import Path

from qsearch.compile.emulation import executable_arch
from qsearch.compile.manifest import damaged_files, read_manifest
from qsearch.errors import QsearchError
from qsearch.target import Target, isas_of


def require_runnable(artefact: Path, target: Target) -> None:
    """Raise `QsearchError` for an executable of another architecture or instruction set, or a tampered one."""
    manifest = read_manifest(artefact)
    name = manifest["executable"]
    arch = executable_arch(artefact / name)
    if arch != target.arch:
        raise QsearchError(
            f"cannot run {artefact / name} on {target.name}: it is for {arch} and the device is {target.arch}; "
            f"compile with --target {target.name}"
        )
    isa = manifest.get("target", {}).get("isa")
    missing = sorted(isas_of(arch).get(isa, frozenset()) - set(target.features))
    if missing:
        raise QsearchError(
            f"cannot run {artefact / name} on {target.name}: its {isa} code needs {', '.join(missing)}, which the "
            f"device lacks; compile with --target {target.name}"
        )
    listed = {key: value for key, value in manifest["files"].items() if key == name}
    for problem in damaged_files(artefact, {**manifest, "files": listed}):
        raise QsearchError(f"cannot run {artefact / name}: {problem}")
