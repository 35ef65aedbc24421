"""The form of every layer, chosen by measurement on this machine and remembered on disk."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


def fastest(costs: Mapping[ConvSpec, float]) -> ConvSpec:
    """The form that takes least time; an earlier one, the better guess, gives way only to more than noise."""
    best = min(costs.values())
    return next(form for form, cost in costs.items() if cost * _NOISE <= best)


@dataclass(frozen=True)
class Measured:
    """A `kernels.Timed` that takes the fastest exact form on this machine with `threads_used` threads.

    What is measured is kept in `folder`, for this processor and these kernel sources. For instruction sets that this
    machine does not run it is `kernels.expected`.
    """

    threads_used: int
    folder: Path

    def __call__(self, spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
        """The fastest form."""
        return fastest(self.costs(spec, isa, conv))

    def costs(self, spec: ConvSpec, isa: str, conv: Convolution) -> dict[ConvSpec, float]:
        """Milliseconds per pixel of the layer's input of every form; its rank where it cannot be measured."""
        forms = kernels.candidates(spec, isa, conv)
        if len(forms) == 1 or isa not in kernels.host_isas():
            return kernels.expected.costs(spec, isa, conv)
        path = self.folder / CHOICES / f"{spec.symbol}-{_key(forms, isa, self.threads_used)}.json"
        times = _remembered(path)
        if set(times) != {form.algorithm for form in forms}:
            cache.host_kernels(forms, isa, self.folder)
            calls = [_bound(form, isa, conv, self.threads_used, self.folder) for form in forms]
            seconds = _seconds(calls, self.threads_used)
            times = {form.algorithm: taken * 1e3 for form, taken in zip(forms, seconds, strict=True)}
            write_json(path, {"best_ms": times})
        rows, columns = _input_size(spec, self.threads_used)
        return {form: times[form.algorithm] / (rows * columns) for form in forms}


def measured(threads_used: int | None = None, folder: Path | None = None) -> Measured:
    """`Measured` with `threads_used` threads (default: all) and `folder` (default: that of compiled kernels)."""
    return Measured(threads_used or threads.available(), folder or cache.default_folder())


def for_target(target: Target) -> kernels.Choose:
    """`measured` where the target is this machine, else `kernels.expected`."""
    here = detect_host()
    if (target.arch, target.cpu) != (here.arch, here.cpu):
        return kernels.expected
    return measured(min(target.threads, threads.available()))


def _key(forms: Sequence[ConvSpec], isa: str, threads_used: int) -> str:
    parts = [repr(forms), isa, str(threads_used), detect_host().cpu, cache.source_digest()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def _remembered(path: Path) -> dict[str, float]:
    """The milliseconds of every form by its algorithm."""
    try:
        return {str(name): float(ms) for name, ms in read_json(path)["best_ms"].items()}
    except (QsearchError, KeyError, TypeError, ValueError, AttributeError):
        return {}  # absent or damaged: measured again


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
    return bound_kernel(spec, isa, conv, _input_size(spec, threads_used), folder)


def _input_size(spec: ConvSpec, threads_used: int) -> tuple[int, int]:
    """Rows and columns of the canonical image."""
    return spec.input_size(_rows(spec, threads_used) * spec.shuffle, _COLUMNS * spec.shuffle)


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
