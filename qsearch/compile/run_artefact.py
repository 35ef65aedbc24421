"""Running an artefact from Python: upscaling a photo, and verifying that it does what it promises."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qsearch.compile.manifest import damaged_files, read_manifest
from qsearch.compile.ppm import decode_ppm, encode_ppm
from qsearch.errors import QsearchError
from qsearch.images import read_image, save_image
from qsearch.integer.storage import load_program, run_program


@dataclass(frozen=True)
class Upscaled:
    """The picture that `upscale` wrote."""

    path: Path
    height: int
    width: int


@dataclass(frozen=True)
class Verification:
    """What `verify` found: no problems is a pass."""

    files: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every file and every byte is right."""
        return not self.problems


def upscale(
    artefact: Path | str, photo: Path | str, out: Path | str, threads: int | None = None, tile: int | None = None
) -> Upscaled:
    """Upscale the picture `photo` with the artefact's executable and save it as `out`, in the format of its suffix.

    Images of any size run through tiles; `tile` limits their side in input pixels (None: by memory), and the bytes do
    not depend on it. Raises `QsearchError` for what is not an image or artefact, or cannot be written.
    """
    big = run_executable(artefact, read_image(photo), threads, tile)
    save_image(out, big)
    return Upscaled(Path(out), *big.shape[:2])


def run_executable(
    artefact: Path | str, image: NDArray[np.uint8], threads: int | None = None, tile: int | None = None
) -> NDArray[np.uint8]:
    """The artefact's output uint8 `[H·u, W·u, 3]` for `image` uint8 `[H, W, 3]`; `QsearchError` where it refuses."""
    folder = Path(artefact)
    executable = (folder / read_manifest(folder)["executable"]).resolve()
    options = [f"--{name}={value}".split("=") for name, value in (("threads", threads), ("tile", tile)) if value]
    command = [str(executable), "-", "-", *(word for option in options for word in option)]
    try:
        done = subprocess.run(command, input=encode_ppm(image), capture_output=True)
    except OSError as error:
        raise QsearchError(f"cannot run {executable}: {error.strerror or error}") from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise QsearchError(lines[-1] if lines else f"{executable} ended with status {done.returncode}")
    return decode_ppm(done.stdout, f"the output of {executable.name}")


def verify(artefact: Path | str) -> Verification:
    """Check the SHA-256 of every file, then the golden bytes from the executable, whole and in tiles, and from the
    integer reference.

    Nothing is run where a file is damaged. Raises `QsearchError` only where `artefact` is not an artefact.
    """
    folder = Path(artefact)
    manifest = read_manifest(folder)
    problems = damaged_files(folder, manifest)
    if not problems:
        problems = _check_golden(folder, manifest)
    return Verification(len(manifest["files"]), tuple(problems))


def _check_golden(folder: Path, manifest: dict[str, Any]) -> list[str]:
    image, expected = (decode_ppm((folder / manifest["golden"][key]).read_bytes()) for key in ("input", "output"))
    problems = []
    for what, tile in (("in one piece", None), ("in tiles", max(image.shape[:2]) - 1)):
        if tile is not None and tile <= 2 * manifest["halo"]:
            continue
        try:
            if not np.array_equal(run_executable(folder, image, tile=tile), expected):
                problems.append(f"{manifest['executable']} does not give the golden output {what}")
        except QsearchError as error:
            problems.append(str(error))
    try:
        if not np.array_equal(run_reference(folder, image), expected):
            problems.append("the integer reference does not give the golden output")
    except QsearchError as error:
        problems.append(str(error))
    return problems


def run_reference(artefact: Path | str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The output of the artefact's integer program in PyTorch, uint8 `[H·u, W·u, 3]`."""
    result = run_program(load_program(artefact), torch.from_numpy(image).permute(2, 0, 1)[None].contiguous())
    return result[0].permute(1, 2, 0).contiguous().numpy()
