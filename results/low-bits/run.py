"""Which bit widths are faster on int8 hardware: exact integer Winograd and bit-serial forms against the direct kernel.

    python results/low-bits/run.py [--rounds N]

Two layers of EDSR, 3×3 64→64 and 3×3 64→256 with a pixel shuffle, on 320×180 at one and two threads, for W1 to W8 and
A1 to A8; then EDSR-baseline ×4 as a whole at W8A8, W6A6, W5A5 and W4A4. Weights are normal, quantized per output
channel to their largest magnitude; activations are any values of the width. The speed of a kernel does not depend on
values, so every form is timed once per layer, all in interleaved rounds, and every cell takes the fastest of the forms
that are exact for its own weights and values; its bytes are compared with those of the direct kernel. Run it on a quiet
machine; it writes table.json, heatmap.svg and README.md here.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi
from heatmap import Panel, save_heatmap

from qsearch import samples
from qsearch.allocation import uniform
from qsearch.compile import kernels, threads, tuning
from qsearch.compile.alignment import aligned, aligned_copy
from qsearch.compile.cache import host_kernel
from qsearch.compile.host import HostNetwork
from qsearch.compile.packing import Convolution, Requantization
from qsearch.compile.specs import ConvSpec, OutSpec
from qsearch.files import write_atomic, write_json
from qsearch.measure.timers import Comparison, interleave
from qsearch.models import build
from qsearch.network import CalibratedNetwork

SIZE, CHECKED = (180, 320), (23, 75)
ROUNDS, CHANNELS = 15, 64
BITS = range(1, 9)
# Widths that together allow every form.
LOWEST = ((3, 1), (2, 2), (2, 1), (1, 2), (1, 1))
ALLOCATIONS = ((8, 8), (6, 6), (5, 5), (4, 4))
FASTER = 1.05
"""A cell is faster from this speed-up on; below it is smaller, not faster."""
HERE = Path(__file__).parent

PAGE = """# Which bit widths are faster

Made by `python results/low-bits/run.py` on {date}: {cpu}, instruction set `{isa}`, load average {load:.2f} before the
first round. Input {size}, uint8 in and out, {rounds} interleaved rounds. Times are medians with, in parentheses,
the minimum; speed-ups are paired medians against the direct kernel.

![speed-up by bits](heatmap.svg)

Every cell runs the fastest form that is exact for its weights and activations, and gives the bytes of the direct kernel
(checked for all {cells} cells). Cells marked *smaller* gain memory and no time.

{layers}

## EDSR-baseline ×4, from image to image

| allocation | {heads} |
|---|{rules}|
{networks}
"""


@dataclass(frozen=True)
class Subject:
    """A layer: `outputs` channels before a pixel shuffle by `shuffle`."""

    name: str
    outputs: int
    shuffle: int

    def spec(self) -> ConvSpec:
        """What its kernels compute."""
        channels = self.outputs // self.shuffle**2
        return ConvSpec((3, 3), 1, (1, 1), CHANNELS, 1, self.outputs, (OutSpec(channels, 1),), shuffle=self.shuffle)

    def convolution(self, weight_bits: int, bits: int) -> Convolution:
        """Parameters of the widths, to 8-bit outputs."""
        random, largest = np.random.default_rng(weight_bits), max(2 ** (weight_bits - 1) - 1, 1)
        normal = random.normal(size=(self.outputs, CHANNELS, 3, 3))
        scaled = np.rint(normal / np.abs(normal).max((1, 2, 3), keepdims=True) * largest)
        weight = np.where(normal < 0, -1, 1) if weight_bits == 1 else scaled
        highest, zeros = 2**bits - 1, np.zeros(self.outputs, np.int32)
        typical = np.sqrt((weight.astype(float) ** 2).sum((1, 2, 3))) * highest
        m = (40 / typical).astype(np.float32)
        pad = np.zeros(self.outputs // self.shuffle**2, np.uint8)
        outputs = [Requantization(m, m, np.array([128, 0, 255], np.int32), pad)]
        return Convolution(weight.astype(np.int8), 1, zeros, zeros, [], outputs, (0, highest))


SUBJECTS = (Subject("64→64", 64, 1), Subject("64→256, shuffled", 256, 2))


def forms_of(subject: Subject, isa: str) -> dict[str, tuple[ConvSpec, Convolution]]:
    """Every form that some cell may take, with parameters for which it is exact."""
    found: dict[str, tuple[ConvSpec, Convolution]] = {}
    for weight_bits, bits in LOWEST:
        conv = subject.convolution(weight_bits, bits)
        for form in kernels.candidates(subject.spec(), isa, conv):
            found.setdefault(form.algorithm, (form, conv))
    low = {name: pair for name, pair in found.items() if name.startswith(("winograd", "bits"))}
    return {"direct": found["direct"], **low}


def time_forms(subject: Subject, isa: str, count: int, rounds: int) -> Comparison:
    """All forms of a layer in one interleaved run."""
    threads.use(count)
    calls = {name: tuning.bound_kernel(form, isa, conv, SIZE) for name, (form, conv) in forms_of(subject, isa).items()}
    return interleave(calls, rounds, "direct", threads=count, size=SIZE)


def cells(subject: Subject, isa: str, compared: Comparison) -> list[dict[str, Any]]:
    """The fastest exact form of every pair of bits, and its speed-up."""
    found = []
    for weight_bits in BITS:
        for bits in BITS:
            conv = subject.convolution(weight_bits, bits)
            exact = {form.algorithm: form for form in kernels.candidates(subject.spec(), isa, conv)}
            speedups = {"direct": 1.0} | {n: 1 / r.median for n, r in compared.ratios.items() if n in exact}
            best = max(speedups, key=lambda name: speedups[name])
            if speedups[best] < FASTER:
                best = "direct"
            check_bytes(subject, isa, conv, exact[best])
            timing = compared.timings[best]
            found.append({"weight_bits": weight_bits, "bits": bits, "form": best, "speedup": speedups[best],
                          "median_ms": timing.median_ms, "best_ms": min(timing.samples_ms),
                          "exact": sorted(exact)})  # fmt: skip
    return found


def check_bytes(subject: Subject, isa: str, conv: Convolution, form: ConvSpec) -> None:
    """Compares the bytes of `form` with those of the direct kernel."""
    outputs = []
    rows, columns = CHECKED
    for spec in (form, replace(subject.spec(), algorithm="direct")):
        image = np.zeros((rows + 2, columns + 2, CHANNELS), np.uint8)
        image[1:-1, 1:-1] = np.random.default_rng(0).integers(0, conv.values[1] + 1, (rows, columns, CHANNELS))
        channels = spec.outputs[0].channels
        output = aligned((rows * spec.shuffle + 2) * (columns * spec.shuffle + 2) * channels)
        parameters = kernels.pack(spec, isa, conv)
        shaped = output.reshape(rows * spec.shuffle + 2, -1, channels)
        arrays = [aligned_copy(image).reshape(image.shape), shaped]
        arrays += [aligned_copy(parameters[name]) for name in spec.param_names]
        host_kernel(spec, isa)(*map(tvm_ffi.from_dlpack, arrays))
        outputs.append(output)
    np.testing.assert_array_equal(outputs[0], outputs[1])


def whole_network(count: int, rounds: int) -> Comparison:
    """EDSR-baseline ×4 at every allocation."""
    images = samples.calibration_images(4)
    network = CalibratedNetwork.make(build("edsr_r16f64_x4"), images)
    image = np.ascontiguousarray(np.resize(images[0], (*SIZE, 3)))
    calls = {}
    for allocation in ALLOCATIONS:
        program = network.program(uniform(network.sites, *allocation))
        fast = HostNetwork(program, count, choose=tuning.measured(count))
        np.testing.assert_array_equal(fast.run(image), HostNetwork(program, count).run(image))
        calls["W{}A{}".format(*allocation)] = lambda fast=fast: fast.run(image)
    return interleave(calls, rounds, threads=count, size=SIZE)


def layer_table(subject: Subject, runs: list[Comparison]) -> str:
    """The times of all forms of a layer."""
    heads = " | ".join(f"{threads_text(run)}, ms | speed-up" for run in runs)
    lines = [f"## {subject.name}", "", f"| form | {heads} |", "|---" * (1 + 2 * len(runs)) + "|"]
    for name in runs[0].timings:
        parts = []
        for run in runs:
            timing, ratio = run.timings[name], run.ratios.get(name)
            parts += [
                f"{timing.median_ms:.2f} ({min(timing.samples_ms):.2f})",
                f"{1 / ratio.median if ratio else 1:.2f}",
            ]
        lines.append(f"| {name} | {' | '.join(parts)} |")
    return "\n".join(lines)


def threads_text(run: Comparison) -> str:
    """How many threads."""
    return f"{run.conditions.threads} thread{'s' * (run.conditions.threads > 1)}"


def network_row(name: str, runs: list[Comparison]) -> str:
    """The times of one allocation."""
    parts = []
    for run in runs:
        timing, ratio = run.timings[name], run.ratios.get(name)
        text = f"{timing.median_ms:.1f} ({min(timing.samples_ms):.1f})"
        parts.append(text + (f", {1 / ratio.median:.2f}×" if ratio else ""))
    return f"| {name} | {' | '.join(parts)} |"


def as_json(run: Comparison) -> dict[str, Any]:
    """A run with the minimum instead of its single samples."""
    timings = {n: {**asdict(t), "samples_ms": None, "best_ms": min(t.samples_ms)} for n, t in run.timings.items()}
    return {"conditions": asdict(run.conditions), "timings": timings,
            "ratios": {name: asdict(ratio) for name, ratio in run.ratios.items()}}  # fmt: skip


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    isa = kernels.host_isas()[0]
    counts = [count for count in (1, 2) if count <= threads.available()]
    runs = {subject: [time_forms(subject, isa, count, rounds) for count in counts] for subject in SUBJECTS}
    found = {subject: cells(subject, isa, compared[0]) for subject, compared in runs.items()}
    networks = [whole_network(count, rounds) for count in counts]
    write_json(HERE / "table.json", {
        "isa": isa,
        "layers": {s.name: {"runs": [as_json(run) for run in runs[s]], "cells": found[s]} for s in SUBJECTS},
        "networks": [as_json(run) for run in networks],
    })  # fmt: skip
    save_heatmap(HERE / "heatmap.svg", [Panel(s.name, list(BITS), found[s]) for s in SUBJECTS])
    conditions = networks[0].conditions
    first = runs[SUBJECTS[0]][0].conditions
    page = PAGE.format(date=first.date, cpu=first.cpu, load=first.load_average, isa=isa, rounds=conditions.rounds,
                       size=f"{SIZE[1]}×{SIZE[0]}", cells=sum(map(len, found.values())),
                       layers="\n\n".join(layer_table(s, runs[s]) for s in SUBJECTS),
                       heads=" | ".join(f"{threads_text(run)}, ms" for run in networks),
                       rules="|".join(["---"] * len(networks)),
                       networks="\n".join(network_row(n, networks) for n in networks[0].timings))  # fmt: skip
    write_atomic(HERE / "README.md", page)
    print(json.dumps({"layers": {s.name: {n: 1 / r.median for n, r in runs[s][0].ratios.items()} for s in SUBJECTS},
                      "networks": {n: 1 / r.median for n, r in networks[0].ratios.items()}}))  # fmt: skip


if __name__ == "__main__":
    main()
