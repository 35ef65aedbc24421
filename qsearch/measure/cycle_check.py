"""How far a cycle model can be trusted: modelled kernels beside the same kernels measured on this machine."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qsearch.compile import kernels, threads
from qsearch.compile.packing import Convolution, Requantization
from qsearch.compile.specs import ConvSpec
from qsearch.compile.tuning import bound_kernel
from qsearch.host import detect_host
from qsearch.measure.cycles.cores import Core
from qsearch.measure.modelled import cycles_of

_ROUNDS, _SECONDS = 5, 0.05


@dataclass(frozen=True)
class Checked:
    """One kernel on one thread: what the model says, and the shortest of its measured times."""

    spec: ConvSpec
    isa: str
    label: str
    latency_modelled_ms: float
    latency_ms: float
    method: str


@dataclass(frozen=True)
class Agreement:
    """How modelled and measured times of several kernels agree."""

    kernels: int
    rank_correlation: float
    """Spearman's: 1 for the same order."""
    median_ratio: float
    """Measured over modelled; it moves with the clock and says nothing of the order."""
    spread: float
    """The largest ratio over the smallest after a tenth at each end: 1 for a model that is only off by a factor."""


@dataclass(frozen=True)
class Layer:
    """A convolution to be checked in all its forms: `weight_bits` and `input_bits` decide which are exact."""

    spec: ConvSpec
    weight_bits: int
    input_bits: int

    @property
    def label(self) -> str:
        """As in `3x3 64→64 w4a4`."""
        spec = self.spec
        shuffle = f" shuffle {spec.shuffle}" if spec.shuffle > 1 else ""
        shape = f"{spec.kernel[0]}x{spec.kernel[1]} {spec.in_channels}→{spec.out_channels}{shuffle}"
        return f"{shape} w{self.weight_bits}a{self.input_bits}"


def random_convolution(spec: ConvSpec, weight_bits: int, input_bits: int) -> Convolution:
    """Random symmetric weights of the bits, at 5 bits up to 14 as Winograd forms need them; every input of the bits."""
    random = np.random.default_rng(0)
    largest = {1: 1, 5: 14}.get(weight_bits, 2 ** (weight_bits - 1) - 1)
    shape = (spec.out_channels, spec.in_channels, *spec.kernel)
    weight = random.integers(-largest, largest + 1, shape).astype(np.int8)
    if weight_bits == 1:
        weight = np.where(weight < 0, -1, 1).astype(np.int8)
    channels = spec.out_channels
    outputs = [
        Requantization(
            np.full(channels, 1e-4, np.float32),
            np.full(channels, 1e-5, np.float32),
            np.array([0, 0, 255], np.int32),
            np.zeros(output.channels, np.uint8) if output.border else None,
        )
        for output in spec.outputs
    ]
    zeros = np.zeros(channels, np.int32)
    ones = [np.ones(channels, np.int32) for _ in spec.skips]
    return Convolution(weight, 1, zeros, zeros, ones, outputs, (0, 2**input_bits - 1))


def check(
    layers: Iterable[Layer], isa: str, core: Core, size: tuple[int, int], folder: Path | None = None
) -> list[Checked]:
    """Every form of every layer for `isa` on one thread, measured in interleaved rounds and modelled as `core`.

    `size` = (rows, columns) of the input. Forms that several layers share are measured once.
    """
    found: dict[ConvSpec, tuple[str, Callable[[], None]]] = {}
    for layer in layers:
        conv = random_convolution(layer.spec, layer.weight_bits, layer.input_bits)
        for form in kernels.candidates(layer.spec, isa, conv):
            if form not in found:
                found[form] = f"{layer.label} {form.algorithm}", bound_kernel(form, isa, conv, size, folder)
    measured = _shortest_ms([call for _, call in found.values()])
    arch = detect_host().arch
    checked = []
    for (form, (label, _)), latency_ms in zip(found.items(), measured, strict=True):
        cycles = cycles_of(form, isa, arch, core, size, folder)
        checked.append(Checked(form, isa, label, cycles.cycles / core.clock_ghz / 1e6, latency_ms, cycles.method))
    return checked


def _shortest_ms(calls: Sequence[Callable[[], None]]) -> list[float]:
    threads.use(1)
    best = [float("inf")] * len(calls)
    end, rounds = time.perf_counter() + _SECONDS * len(calls), 0
    while rounds < _ROUNDS or time.perf_counter() < end:
        for index, call in enumerate(calls):
            start = time.thread_time()  # a kernel on one thread runs in the caller; others may share the processor
            call()
            best[index] = min(best[index], (time.thread_time() - start) * 1e3)
        rounds += 1
    return best


def agreement(checked: Sequence[Checked]) -> Agreement:
    """Of at least two kernels."""
    modelled = np.array([row.latency_modelled_ms for row in checked])
    measured = np.array([row.latency_ms for row in checked])
    ratios = measured / modelled
    low, high = np.quantile(ratios, [0.1, 0.9])
    return Agreement(len(checked), _spearman(modelled, measured), float(np.median(ratios)), float(high / low))


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
