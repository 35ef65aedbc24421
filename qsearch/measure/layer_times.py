"""What every layer of a network takes in every form of its sites, so that proposals of a search can follow latency.

A layer's time depends on the form of its kernel, and that on its weights and on the span of its input: lowerings
of the network, one for each number of bits and each quantizer asked for, give the forms of all its allocations.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from qsearch.allocation import Allocation, SiteAllocation, uniform
from qsearch.compile import kernels, threads, tuning
from qsearch.compile.packing import Convolution
from qsearch.compile.plan import build
from qsearch.compile.specs import ConvSpec
from qsearch.integer.lowering import layer_name
from qsearch.network import CalibratedNetwork

Size = tuple[int, int]

LayerMs = Callable[[ConvSpec, str, Convolution, Size], float]
"""Milliseconds of the best form of a layer on an instruction set, for an input of (rows, columns)."""


_CALLS = 6


@dataclass(frozen=True)
class _Layer:
    spec: ConvSpec
    conv: Convolution
    size: Size


class LayerTimes:
    """A prediction of the latency of allocations: the sum of their layers' times, each asked for once."""

    def __init__(self, network: CalibratedNetwork, isa: str, size: Size, layer_ms: LayerMs) -> None:
        self.isa, self.layer_ms = isa, layer_ms
        self._layers = cache(lambda setting: _layers(network, isa, size, setting))
        self.sites = {layer_name(name.removesuffix(".weight")): name for name in _weights(network)}
        self.known: dict[tuple[str, int, SiteAllocation], float] = {}

    def __call__(self, allocation: Allocation) -> float:
        """Milliseconds of the convolutions of `allocation`."""
        total = 0.0
        for layer, weight in self.sites.items():
            source = f"{weight.removesuffix('.weight')}.input"
            total += self._time(layer, allocation.bits(weight), allocation.sites[source])
        return total

    def _time(self, layer: str, weight_bits: int, source: SiteAllocation) -> float:
        key = layer, weight_bits, source
        if key not in self.known:
            here = self._layers(SiteAllocation(bits=weight_bits)).get(layer)
            other = self._layers(source).get(layer)
            # A step that only some allocations have, such as a second one of the same convolution, counts nothing.
            if here is None or other is None:
                self.known[key] = 0.0
            else:
                conv = replace(here.conv, values=other.conv.values)
                self.known[key] = self.layer_ms(here.spec, self.isa, conv, here.size)
        return self.known[key]


def measured_layer_ms(threads_used: int | None = None) -> LayerMs:
    """The shortest of some calls of the fastest form on this machine, with `threads_used` threads (default: all)."""
    choose, known = tuning.measured(threads_used), dict[tuple[ConvSpec, Size], float]()

    def layer_ms(spec: ConvSpec, isa: str, conv: Convolution, size: Size) -> float:
        form = choose(spec, isa, conv)
        if (form, size) not in known:
            call = tuning.bound_kernel(form, isa, conv, size)
            threads.use(threads_used or threads.available())
            known[form, size] = min(_timed(call) for _ in range(_CALLS)) * 1e3
        return known[form, size]

    return layer_ms


def _timed(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _weights(network: CalibratedNetwork) -> list[str]:
    return [site.name for site in network.sites if site.kind == "weight"]


def _layers(network: CalibratedNetwork, isa: str, size: Size, setting: SiteAllocation) -> dict[str, _Layer]:
    """The convolutions of the network with `setting` wherever it can be, by their steps' names."""
    seen: list[tuple[ConvSpec, Convolution]] = []

    def note(spec: ConvSpec, isa: str, conv: Convolution) -> ConvSpec:
        seen.append((spec, conv))
        return kernels.plain(spec, isa, conv)

    allocation = uniform(network.sites, setting.bits, setting.bits)
    if setting.quantizer == "piecewise":
        able = [site.name for site in network.sites if site.kind != "weight" and len(site.choices) > 1]
        able = [name for name in able if allocation.bits(name) == setting.bits]
        allocation = Allocation(sites={**allocation.sites, **dict.fromkeys(able, setting)})
    plan = build(network.program(allocation), isa, note)
    steps = [step for step in plan.steps if isinstance(step.spec, ConvSpec)]
    sizes = plan.sizes(*size)
    return {step.name: _Layer(spec, conv, sizes[step.input]) for step, (spec, conv) in zip(steps, seen, strict=True)}
