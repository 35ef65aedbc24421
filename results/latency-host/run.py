"""EDSR-baseline ×4 at INT8 on this machine against ONNX Runtime, and what evaluating one allocation costs.

    python results/latency-host/run.py

Whole networks from a uint8 image to a uint8 image (16 blocks, 64 channels, input 320×180), interleaved rounds, at one
and two threads; the VNNI peak is a register-only loop timed in the same rounds. The second part, which needs
../shared/data, times the evaluation of one allocation of rnet9_x4 on Set14 (quantizing the weights, repacking, the
compiled network, PSNR) against the float32 PyTorch forward alone. Run it on a quiet machine; it writes table.json and
README.md here.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from qsearch import samples
from qsearch.allocation import uniform
from qsearch.compile.host import HostNetwork
from qsearch.compile.timing import peak_loop, step_times
from qsearch.data import shared_data
from qsearch.evaluation import Measurer
from qsearch.files import write_atomic, write_json
from qsearch.images import read_lr_images, read_pairs
from qsearch.measure.peers import OnnxRuntime, float_onnx, int8_onnx
from qsearch.measure.timers import interleave
from qsearch.models import build, load, to_input
from qsearch.network import CalibratedNetwork
from qsearch.passes import prepare

SIZE = (180, 320)
ROUNDS, EVALUATION_ROUNDS = 15, 3
LIMITS = {1: 0.62, 2: 0.5}
PEAK_SHARE, EVALUATION_LIMIT = 0.85, 0.35
HERE = Path(__file__).parent

PAGE = """# Latency on the host

Made by `python results/latency-host/run.py` on {date}: {cpu}, load average {load:.2f} before the first round.
EDSR-baseline ×4 (16 blocks, 64 channels), input 320×180, uint8 image to uint8 image, {rounds} interleaved rounds;
medians in ms with the 95 % confidence interval of the median. Ratios are paired, round by round.

| network | {heads} |
|---|{rules}|
{rows}

Ratio to ONNX Runtime INT8 (its own QDQ quantization, u8s8, per channel): {ratios}.

| | {heads} |
|---|{rules}|
{peak_rows}

## Evaluating one allocation

{evaluation}
"""


def whole_network(threads: int) -> dict[str, Any]:
    """One interleaved run at `threads`, with the peak and the share of each 64→64 kernel."""
    model = build("edsr_r16f64_x4")
    images = samples.calibration_images(4)
    network = CalibratedNetwork.make(model, images)
    image = np.ascontiguousarray(np.resize(images[0], (*SIZE, 3)))
    ours = HostNetwork(network.program(uniform(network.sites, 8, 8)), threads)
    floating = float_onnx(prepare(model.module), model.white)
    peers = {
        "ONNX Runtime INT8": OnnxRuntime(int8_onnx(floating, [crop[:96, :96] for crop in images]), threads),
        "ONNX Runtime FP32": OnnxRuntime(floating, threads),
    }
    peak, peak_gmac = peak_loop(ours.isa, threads)
    functions: dict[str, Any] = {"qsearch INT8": lambda: ours.run(image), "peak": peak}
    functions |= {name: lambda peer=peer: peer.run(image) for name, peer in peers.items()}
    compared = interleave(functions, ROUNDS, "ONNX Runtime INT8", threads=threads, size=SIZE)
    steps = step_times(ours, image, ROUNDS)
    peak_speed = peak_gmac / min(compared.timings["peak"].samples_ms) * 1e3
    body = [s for s in steps if s.spec.in_channels == s.spec.out_channels == 64 and s.spec.kernel == (3, 3)]
    return {
        "threads": threads,
        "conditions": asdict(compared.conditions),
        "timings": {name: {**asdict(timing), "samples_ms": None} for name, timing in compared.timings.items()},
        "ratios": {name: asdict(ratio) for name, ratio in compared.ratios.items()},
        "peak_gmac_per_s": peak_speed,
        "floor_ms": sum(step.gmac for step in steps) / peak_speed * 1e3,
        "kernel_peak_share": {"worst": min(s.gmac_per_s for s in body) / peak_speed,
                              "median": float(np.median([s.gmac_per_s for s in body])) / peak_speed},
        "steps": [{"name": s.name, "best_ms": s.best_ms, "gmac_per_s": s.gmac_per_s} for s in steps],
    }  # fmt: skip


def evaluation(data: Path, threads: int) -> dict[str, Any]:
    """Evaluating one allocation on Set14 against the float32 forward, both on `threads`."""
    torch.set_num_threads(threads)
    model = load(data / "weights" / "rnet9_x4.pt")
    network = CalibratedNetwork.make(model, read_lr_images(data / "calibration", 8))
    pairs = read_pairs(data / "benchmarks" / "Set14" / "x4", 4)
    measurer = Measurer(network, pairs, threads)
    allocations = [uniform(network.sites, *bits) for bits in ((8, 8), (6, 6), (4, 4))]
    count = 0

    def one_allocation() -> None:
        nonlocal count
        measurer(allocations[count % len(allocations)])
        count += 1

    inputs = [to_input(pair.lr, model.white) for pair in pairs]
    channels_last = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    fast = model.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(batch: list[torch.Tensor]) -> None:
        with torch.inference_mode():
            for x in batch:
                fast(x)

    for _ in allocations:
        one_allocation()
    functions = {"float32 PyTorch": lambda: forward(inputs), "float32 PyTorch, channels last":
                 lambda: forward(channels_last), "one allocation": one_allocation}  # fmt: skip
    compared = interleave(functions, EVALUATION_ROUNDS, threads=threads)
    fastest = min("float32 PyTorch", "float32 PyTorch, channels last", key=lambda n: compared.timings[n].median_ms)
    return {
        "threads": threads,
        "timings": {name: {**asdict(t), "samples_ms": None} for name, t in compared.timings.items()},
        "fastest_float": fastest,
        "ratio": compared.timings["one allocation"].median_ms / compared.timings[fastest].median_ms,
    }


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """One line of the table."""
    cells = [f"{t['median_ms']:.1f} ({t['low_ms']:.1f}–{t['high_ms']:.1f})" for t in (r["timings"][name] for r in runs)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Measure and write the page."""
    runs = [whole_network(threads) for threads in (1, 2)]
    data = shared_data()
    evaluations = [evaluation(data, threads) for threads in (1, 2)] if data else []
    write_json(HERE / "table.json", {"networks": runs, "evaluation": evaluations})
    ratios = ", ".join(
        f"{r['ratios']['qsearch INT8']['median']:.3f} at {r['threads']} thread{'s' * (r['threads'] > 1)} "
        f"(wanted: at most {LIMITS[r['threads']]})"
        for r in runs
    )
    peak_rows = [
        "| VNNI peak, GMAC/s | " + " | ".join(f"{r['peak_gmac_per_s']:.0f}" for r in runs) + " |",
        "| whole network at peak, ms | " + " | ".join(f"{r['floor_ms']:.1f}" for r in runs) + " |",
        f"| slowest 64→64 kernel, share of peak (wanted: {PEAK_SHARE}) | "
        + " | ".join(f"{r['kernel_peak_share']['worst']:.2f}" for r in runs)
        + " |",
        "| median 64→64 kernel, share of peak | "
        + " | ".join(f"{r['kernel_peak_share']['median']:.2f}" for r in runs)
        + " |",
    ]
    lines = [
        f"- {e['threads']} thread{'s' * (e['threads'] > 1)}: "
        f"{e['timings']['one allocation']['median_ms']:.0f} ms on Set14 "
        f"against {e['timings'][e['fastest_float']]['median_ms']:.0f} ms for the fastest float32 forward "
        f"({e['fastest_float']}): ratio {e['ratio']:.3f} (wanted: at most {EVALUATION_LIMIT})."
        for e in evaluations
    ]
    conditions = runs[0]["conditions"]
    page = PAGE.format(date=conditions["date"], cpu=conditions["cpu"], load=conditions["load_average"], rounds=ROUNDS,
                       heads=" | ".join(f"{r['threads']} thread{'s' * (r['threads'] > 1)}" for r in runs),
                       rules="|".join(["---"] * len(runs)), ratios=ratios, peak_rows="\n".join(peak_rows),
                       rows="\n".join(row(n, runs) for n in runs[0]["timings"] if n != "peak"),
                       evaluation="\n".join(lines) or "Not measured: ../shared/data is absent.")  # fmt: skip
    write_atomic(HERE / "README.md", page)
    print(json.dumps({"ratios": {r["threads"]: r["ratios"]["qsearch INT8"]["median"] for r in runs},
                      "peak_share": [r["kernel_peak_share"]["worst"] for r in runs],
                      "evaluation": [e["ratio"] for e in evaluations]}))  # fmt: skip


if __name__ == "__main__":
    main()
