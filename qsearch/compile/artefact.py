"""The artefact: a folder that upscales images without any library of ours.

It holds a static executable, a C header with its static library, the integer parameters and program, golden images,
licence notes, and a manifest with the SHA-256 of every file.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from qsearch.allocation import Allocation
from qsearch.compile import glue
from qsearch.compile.binaries import build_binaries
from qsearch.compile.cache import kernel_object
from qsearch.compile.kernels import host_target
from qsearch.compile.manifest import FORMAT, GOLDEN, MANIFEST, digests, provenance
from qsearch.compile.plan import OUTPUT, Plan, build
from qsearch.compile.ppm import encode_ppm
from qsearch.compile.run_artefact import run_executable, run_reference
from qsearch.errors import QsearchError
from qsearch.files import new_folder, write_json
from qsearch.integer.storage import save_program
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
) -> Path:
    """Compile `program` for `target` and write the artefact to the new folder `folder`.

    `name` prefixes every C symbol. `golden` is the golden input, uint8 `[H, W, 3]` (a synthetic image by default).
    `model` and `psnr` (with its protocol) are written to the manifest. The same arguments give the same bytes.
    Raises `QsearchError` for a folder that holds anything, a name that is no C prefix, and an executable whose golden
    output differs from the integer reference; then nothing is left behind.
    """
    folder = Path(folder)
    plan = build(program, target.isa)
    _check_sizes(plan)
    minimum = plan.minimum_size()
    interface = glue.Interface(name, *minimum, target.limits.memory_bytes or DEFAULT_MEMORY_BYTES)
    image = golden_image(minimum) if golden is None else golden
    existed = folder.is_dir()
    new_folder(folder)
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        build_binaries(plan, interface, _kernel_objects(plan, target), target.zig_triple, staging)
        save_program(program, staging)
        if allocation is not None:
            allocation.save(staging / "allocation.json")
        shutil.copy(str(glue.RUNTIME / "LICENCES.txt"), staging)
        manifest = {
            "format": FORMAT,
            "name": name,
            "executable": name,
            "upscale": plan.upscale,
            "halo": plan.halo,
            "min_height": minimum[0],
            "min_width": minimum[1],
            "memory_limit_bytes": interface.memory_limit_bytes,
            "target": {"name": target.name, "arch": target.arch, "isa": plan.isa, "triple": target.zig_triple},
            "golden": GOLDEN,
            "float_islands": [],
            "psnr": dict(psnr) if psnr else None,
            "latency": [],
            "provenance": provenance(model),
        }
        _write_golden(staging, image, manifest)
        write_json(staging / MANIFEST, {**manifest, "files": digests(staging)})
        os.chmod(staging, 0o755)
        os.replace(staging, folder)
    except OSError as error:
        raise QsearchError(f"cannot write artefact {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return folder


def _check_sizes(plan: Plan) -> None:
    """Tiles fit together only where every image grows by exactly `upscale`."""
    first = max(plan.minimum_size())
    for size in range(first, first + 8):
        found = plan.sizes(size, size)[OUTPUT]
        if found != (size * plan.upscale, size * plan.upscale):
            raise QsearchError(
                f"this network turns {size} pixels into {found[0]}, not {size * plan.upscale}: "
                "an artefact needs padded convolutions without strides"
            )


def _kernel_objects(plan: Plan, target: Target) -> dict[str, bytes]:
    llvm = {**host_target(plan.isa), "mtriple": target.llvm_triple}
    return {spec.symbol: kernel_object(spec, plan.isa, llvm).read_bytes() for spec in plan.kernels}


def golden_image(minimum: tuple[int, int], size: tuple[int, int] = (64, 96)) -> NDArray[np.uint8]:
    """A synthetic image with flat parts, gradients, hard edges and noise: uint8 `[H, W, 3]`."""
    height, width = max(size[0], minimum[0]), max(size[1], minimum[1])
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=2)
    image[(x // 12 + y // 12) % 3 == 0] = (255, 255, 255)
    image[(x // 12 + y // 12) % 5 == 0] = (0, 0, 0)
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (height // 2, width // 2, 3))
    image[: height // 2, : width // 2] = noise
    return image.astype(np.uint8)


def _write_golden(folder: Path, image: NDArray[np.uint8], manifest: Mapping[str, Any]) -> None:
    """Golden input and output; the output is the reference's, and the executable must give the same bytes."""
    expected = run_reference(folder, image)
    (folder / "golden").mkdir()
    (folder / GOLDEN["input"]).write_bytes(encode_ppm(image))
    (folder / GOLDEN["output"]).write_bytes(encode_ppm(expected))
    write_json(folder / MANIFEST, {**manifest, "files": {}})  # what running the executable needs
    different = int((run_executable(folder, image) != expected).sum())
    if different:
        raise QsearchError(f"{different} bytes of the compiled network differ from the integer reference")
