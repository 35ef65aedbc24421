"""The artefact: a folder that upscales images without any library of ours.

It holds an executable, a C header with its static library, the integer parameters and program, golden images, licence
notes, and a manifest with the SHA-256 of every file. It is built here for any target, and verified here where this
machine runs or emulates the target's processor.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from qsearch.allocation import Allocation
from qsearch.compile import code_budget, glue, tuning
from qsearch.compile.binaries import build_binaries
from qsearch.compile.cache import kernel_objects
from qsearch.compile.golden import golden_image, write_golden
from qsearch.compile.kernels import Choose, kernel_target
from qsearch.compile.manifest import FORMAT, GOLDEN, digests, provenance, write_manifest
from qsearch.compile.memory import check_memory, smallest_tile, tile_bytes
from qsearch.compile.opencl import GPUS
from qsearch.compile.opencl.embed import EmbeddedProgram
from qsearch.compile.plan import OUTPUT, ConvSpec, Plan, build
from qsearch.compile.weights import weight_bytes
from qsearch.errors import QsearchError
from qsearch.files import new_folder
from qsearch.integer.storage import save_program
from qsearch.reach import EmulatedReach
from qsearch.target import Target

DEFAULT_MEMORY_BYTES = 512 << 20


def build_artefact(
    program: GraphModule,
    folder: Path | str,
    target: Target,
    *,
    name: str,
    allocation: Allocation | None = None,
    golden: NDArray[np.uint8] | None = None,
    model: str = "",
    psnr: Mapping[str, Any] | None = None,
    choose: Choose | None = None,
) -> Path:
    """Compile `program` for `target` and write the artefact to the new folder `folder`.

    `name` prefixes every C symbol. `golden` is the golden input, uint8 `[H, W, 3]` (a synthetic image by default).
    `model` and `psnr` (with its protocol) are written to the manifest. `choose` picks every layer's algorithm, by
    default `tuning.for_target`, as far as `code_budget` lets it. The same arguments give the same bytes.
    Where this machine can neither run nor emulate the executable, the manifest's `verified` is false and says why.
    Raises `QsearchError` before compiling for a network that does not fit in the target's memory, a folder that holds
    anything and a name that is no C prefix, and for an executable whose golden output differs from the integer
    reference; then nothing is left behind.
    """
    plan = build(program, target.isa)  # what needs no compiler is said before one runs
    if not plan.whole:
        raise QsearchError("this program is part of a network: an artefact takes an image and gives one")
    check_sizes(plan)
    interface = interface_of(plan, name, target)
    image = golden_image(plan.minimum_size()) if golden is None else golden
    with artefact_folder(folder) as staging:
        plan = code_budget.build(program, target.isa, target.arch, choose or tuning.for_target(target))
        compile_plan(plan, interface, target, staging)
        save_program(program, staging)
        if allocation is not None:
            allocation.save(staging / "allocation.json")
        seal(staging, plan, interface, target, image, model, psnr)
    return Path(folder)


def interface_of(plan: Plan, name: str, target: Target) -> glue.Interface:
    """The interface of an artefact; raises `QsearchError` for a name that is no C prefix and for too little memory."""
    interface = glue.Interface(name, *plan.minimum_size(), target.limits.memory_bytes or DEFAULT_MEMORY_BYTES)
    check_memory(plan, interface.memory_limit_bytes, target.name)
    return interface


@contextmanager
def artefact_folder(path: Path | str) -> Iterator[Path]:
    """A temporary folder beside `path`, which becomes `path` when the block ends well; else nothing is left of it.

    `path` itself is there from the beginning, so that two builds of one name cannot start. Raises `QsearchError` where
    it holds anything or cannot be made.
    """
    folder = Path(path)
    existed = folder.is_dir()
    new_folder(folder)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield staging
        os.chmod(staging, 0o755)
        os.replace(staging, folder)
    except OSError as error:
        raise QsearchError(f"cannot write artefact {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def seal(
    staging: Path,
    plan: Plan,
    interface: glue.Interface,
    target: Target,
    image: NDArray[np.uint8],
    model: str,
    psnr: Mapping[str, Any] | None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Complete an artefact whose binaries and reference are in `staging`: licences, golden images of `image`, and the
    manifest, with `more` entries. Raises `QsearchError` where the executable and the reference differ.
    """
    shutil.copy(str(glue.RUNTIME / "LICENCES.txt"), staging)
    manifest = {**_manifest(plan, interface, target, model, psnr), **(more or {})}
    manifest["verified"] = write_golden(staging, image, interface.name, plan.halo, _emulated_cpu(target))
    write_manifest(staging, {**manifest, "files": digests(staging)})


def _manifest(
    plan: Plan, interface: glue.Interface, target: Target, model: str, psnr: Mapping[str, Any] | None
) -> dict[str, Any]:
    """All but the files' digests and whether they were verified."""
    return {
        "format": FORMAT,
        "name": interface.name,
        "executable": interface.name,
        "upscale": plan.upscale,
        "halo": plan.halo,
        "min_height": interface.min_height,
        "min_width": interface.min_width,
        "memory_limit_bytes": interface.memory_limit_bytes,
        "smallest_tile_bytes": tile_bytes(plan, *smallest_tile(plan)),
        "weight_bytes": weight_bytes(plan),
        "target": {
            "name": target.name,
            "arch": target.arch,
            "isa": plan.isa,
            "abi": target.abi,
            "triple": target.zig_triple,
            "library_triple": target.library_triple,
        },
        "algorithms": {step.name: step.spec.algorithm for step in plan.steps if isinstance(step.spec, ConvSpec)},
        "golden": GOLDEN,
        "float_islands": [],
        "psnr": dict(psnr) if psnr else None,
        "latency": [],
        "provenance": provenance(model),
    }


def check_sizes(plan: Plan) -> None:
    """Raise `QsearchError` unless an image goes in and comes out exactly `upscale` times as large: tiles need that."""
    first = max(plan.minimum_size())
    for size in range(first, first + 8):
        found = plan.sizes(size, size)[OUTPUT]
        if found != (size * plan.upscale, size * plan.upscale):
            raise QsearchError(
                f"this network turns {size} pixels into {found[0]}, not {size * plan.upscale}: "
                "an artefact needs padded convolutions without strides"
            )


def _emulated_cpu(target: Target) -> str:
    return target.reach.cpu if isinstance(target.reach, EmulatedReach) else "max"


def compile_plan(
    plan: Plan, interface: glue.Interface, target: Target, folder: Path, traversal: glue.Traversal | None = None
) -> None:
    """Write the executable, the header, the static library and the parameters of `plan` to `folder`."""
    engine = EmbeddedProgram(GPUS[target.gpu]) if target.gpu else None
    objects = {} if target.gpu else _kernel_objects(plan, target)
    build_binaries(plan, interface, objects, target.zig_triple, folder, engine, target.library_triple, traversal)


def _kernel_objects(plan: Plan, target: Target) -> dict[str, bytes]:
    compiler = kernel_target(plan.isa, target.arch)
    paths = kernel_objects(plan.kernels, plan.isa, compiler)
    return {spec.symbol: path.read_bytes() for spec, path in zip(plan.kernels, paths, strict=True)}
