"""Running an artefact from Python: upscaling a photo, and verifying that it does what it promises."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qsearch.compile.emulation import CannotRunError, command, runner
from qsearch.compile.manifest import PATCHES, damaged_files, read_manifest
from qsearch.compile.ppm import decode_ppm, encode_ppm
from qsearch.errors import QsearchError
from qsearch.images import read_image, save_image
from qsearch.integer.storage import load_program, run_image

_UNSUPPORTED = 3  # the executable's status on a processor without its instruction set


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
    runner: str = "native"
    """What ran the executable: "native" or the emulator's name; empty where nothing could."""
    not_run: str = ""
    """Why the executable could not be run here; the other checks were made."""

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
    return run_binary(folder / read_manifest(folder)["executable"], image, threads, tile)


def run_binary(
    executable: Path,
    image: NDArray[np.uint8],
    threads: int | None = None,
    tile: int | None = None,
    emulated_cpu: str = "max",
) -> NDArray[np.uint8]:
    """The output of an artefact's `executable`, under emulation where it is for another architecture.

    Raises `CannotRunError` where this machine's processor cannot run it, `QsearchError` where it refuses the image.
    """
    executable = executable.resolve()
    options = [f"--{name}={value}".split("=") for name, value in (("threads", threads), ("tile", tile)) if value]
    words = [*command(executable, emulated_cpu), "-", "-", *(word for option in options for word in option)]
    try:
        done = subprocess.run(words, input=encode_ppm(image), capture_output=True)
    except OSError as error:
        raise QsearchError(f"cannot run {executable}: {error.strerror or error}") from error
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"{executable} ended with status {done.returncode}"
        raise CannotRunError(reason) if done.returncode == _UNSUPPORTED else QsearchError(reason)
    return decode_ppm(done.stdout, f"the output of {executable.name}")


def verify(artefact: Path | str) -> Verification:
    """Check the SHA-256 of every file, then the golden bytes from the executable, whole and in tiles, and from the
    integer reference.

    Nothing is run where a file is damaged. Raises `QsearchError` only where `artefact` is not an artefact.
    """
    folder = Path(artefact)
    manifest = read_manifest(folder)
    problems = damaged_files(folder, manifest)
    how, not_run = "", ""
    if not problems:
        image, expected = (decode_ppm((folder / manifest["golden"][key]).read_bytes()) for key in ("input", "output"))
        problems = _check_reference(folder, image, expected)
        try:
            how = check_executable(folder / manifest["executable"], image, expected, manifest["halo"], problems)
        except CannotRunError as error:
            not_run = str(error)
    return Verification(len(manifest["files"]), tuple(problems), how, not_run)


def check_executable(
    executable: Path,
    image: NDArray[np.uint8],
    expected: NDArray[np.uint8],
    halo: int,
    problems: list[str],
    emulated_cpu: str = "max",
) -> str:
    """Add a line to `problems` for every way in which `executable` does not turn `image` into `expected`.

    Returns what ran it ("native" or the emulator's name); raises `CannotRunError` where nothing can.
    """
    how = runner(executable.resolve())
    for what, tile in (("in one piece", None), ("in tiles", max(image.shape[:2]) - 1)):
        if tile is not None and tile <= 2 * halo:
            continue
        try:
            found = run_binary(executable, image, None, tile, emulated_cpu)
            different = int((found != expected).sum()) if found.shape == expected.shape else "all"
            if different:
                problems.append(f"{executable.name} does not give the golden output {what}: {different} bytes differ")
        except CannotRunError:
            raise
        except QsearchError as error:
            problems.append(str(error))
    return how


def _check_reference(folder: Path, image: NDArray[np.uint8], expected: NDArray[np.uint8]) -> list[str]:
    try:
        if np.array_equal(run_reference(folder, image), expected):
            return []
        return ["the integer reference does not give the golden output"]
    except QsearchError as error:
        return [str(error)]


def run_reference(artefact: Path | str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The output of the artefact's integer program in PyTorch, uint8 `[H·u, W·u, 3]`; of its programs for patches."""
    if (Path(artefact) / PATCHES).is_file():
        from qsearch.patches.stored import StoredPatches  # above this package: only here its files meet it

        return StoredPatches.load(artefact).reference(image)
    return run_image(load_program(artefact), image)
