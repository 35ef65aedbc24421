"""The form of every layer, chosen by measurement on this machine and remembered on disk."""

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import cache as memoize
from pathlib import Path

import numpy as np
import tvm_ffi

from qsearch.compile import cache, kernels, threads
from qsearch.compile.alignment import aligned, aligned_copy
from qsearch.compile.packing import Convolution
from qsearch.compile.specs import ConvSpec
from qsearch.errors import QsearchError
from qsearch.files import read_json, write_json
from qsearch.host import detect_host
from qsearch.target import Target

CHOICES = "choices"
"""The folder of choices within that of compiled kernels."""

# One call on the canonical image does about this many multiplications per thread, within these numbers of rows.
_MULTIPLICATIONS = 200_000_000
_ROWS = (8, 64)
_COLUMNS = 320
_SECONDS, _ROUNDS = 0.04, 5
# An earlier form, the better guess, gives way only to one that is faster by more than the noise.
_NOISE = 0.98


def measured(threads_used: int | None = None, folder: Path | None = None) -> kernels.Choose:
    """A `Choose` that takes the fastest exact form on this machine with `threads_used` threads (default: all).

    Each choice is kept in `folder` (default: that of compiled kernels), for this processor and these kernel sources.
    For instruction sets that this machine does not run it is `kernels.expected`.
    """
    folder = folder or cache.default_folder()
    count = threads_used or threads.available()

    def choose(spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
        if isa not in kernels.host_isas():
            return kernels.expected(spec, isa, conv)
        forms = kernels.candidates(spec, isa, conv)
        if len(forms) == 1:
            return forms[0]
        path = folder / CHOICES / f"{spec.symbol}-{_key(forms, isa, count)}.json"
        known = {form.algorithm: form for form in forms}
        name = _remembered(path)
        if name not in known:
            seconds = _seconds([_bound(form, isa, conv, count, folder) for form in forms], count)
            best = min(seconds)
            name = next(f.algorithm for f, taken in zip(forms, seconds, strict=True) if taken * _NOISE <= best)
            times = {form.algorithm: taken * 1e3 for form, taken in zip(forms, seconds, strict=True)}
            write_json(path, {"algorithm": name, "best_ms": times})
        return known[name]

    return choose


def for_target(target: Target) -> kernels.Choose:
    """`measured` where the target is this machine, else `kernels.expected`."""
    here = detect_host()
    if (target.arch, target.cpu) != (here.arch, here.cpu):
        return kernels.expected
    return measured(min(target.threads, threads.available()))


def _key(forms: Sequence[ConvSpec], isa: str, threads_used: int) -> str:
    parts = [repr(forms), isa, str(threads_used), detect_host().cpu, cache.source_digest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def _remembered(path: Path) -> str:
    try:
        return str(read_json(path)["algorithm"])
    except (QsearchError, KeyError, TypeError):
        return ""  # absent or damaged: measured again


def _seconds(calls: Sequence[Callable[[], None]], threads_used: int) -> list[float]:
    """The shortest time of every call, in interleaved rounds."""
    threads.use(threads_used)
    best = [float("inf")] * len(calls)
    end, rounds = time.perf_counter() + _SECONDS * len(calls), 0
    while rounds < _ROUNDS or time.perf_counter() < end:
        for index, call in enumerate(calls):
            start = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - start)
        rounds += 1
    return best


def _bound(spec: ConvSpec, isa: str, conv: Convolution, threads_used: int, folder: Path) -> Callable[[], None]:
    rows, columns = spec.input_size(_rows(spec, threads_used) * spec.shuffle, _COLUMNS * spec.shuffle)
    return bound_kernel(spec, isa, conv, (rows, columns), folder)


def bound_kernel(
    spec: ConvSpec, isa: str, conv: Convolution, size: tuple[int, int], folder: Path | None = None
) -> Callable[[], None]:
    """The kernel of `spec` on this machine with all its arguments: a random input of `size` = (rows, columns) in the
    layer's range, and the layer's parameters."""
    kernel = cache.host_kernel(spec, isa, folder)
    rows, columns = size
    output_rows, output_columns = spec.output_size(rows, columns)
    random = np.random.default_rng(0)
    lowest, highest = conv.values
    buffers = [(rows, columns, spec.in_border, spec.in_channels)]
    skip_size = output_rows // spec.shuffle, output_columns // spec.shuffle
    buffers += [(*skip_size, skip.border, skip.channels) for skip in spec.skips]
    buffers += [(output_rows, output_columns, output.border, output.pitch) for output in spec.outputs]
    arrays = []
    for height, width, border, channels in buffers:
        shape = height + 2 * border, width + 2 * border, channels
        array = aligned(int(np.prod(shape))).reshape(shape)
        array[:] = random.integers(lowest, highest + 1, shape, np.uint8)
        arrays.append(array)
    parameters = kernels.pack(spec, isa, conv)
    arrays += [aligned_copy(parameters[name]) for name in spec.param_names]
    arguments = [tvm_ffi.from_dlpack(array) for array in arrays]

    def call() -> None:
        kernel(*arguments)

    return call


@memoize
def _rows(spec: ConvSpec, threads_used: int) -> int:
    per_row = spec.kernel[0] * spec.kernel[1] * spec.in_channels * spec.out_channels * _COLUMNS // spec.groups
    low, high = _ROWS
    return int(np.clip(_MULTIPLICATIONS // per_row, low, high)) * threads_used
