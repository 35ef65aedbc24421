"""Whole networks at INT8 on this machine against every installed runtime, and what evaluating one allocation costs.

    python results/latency-host/run.py [--rounds N] [--only NAME]

EDSR-baseline ×4, RNet, SRResNet ×4, CARN-M ×4 and an IMDN without attention at 320×180, ABPN ×3 from 640×360 to 1080p,
from a uint8 image to a uint8 image, interleaved rounds, at one and two threads. All runtimes quantize the same float
network on the same images; LiteRT runs the authors' file of ABPN. The VNNI peak is a register-only loop timed in the
same rounds. Published weights come from ../shared/data; without it, random weights of the same shapes do, and the
authors' file and the last part are left out: there one allocation of rnet9_x4 is evaluated on Set14 (quantizing the
weights, repacking, the compiled network, PSNR) against the float32 PyTorch forward alone. Run it on a quiet machine;
it writes table.json, README.md and report.html here.
"""

import argparse
import json
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.fx import GraphModule

from qsearch import samples
from qsearch.allocation import uniform
from qsearch.commands.against import conditions_of
from qsearch.compile import tuning
from qsearch.compile.artefact import build_artefact
from qsearch.compile.host import HostNetwork
from qsearch.compile.timing import StepTime, peak_loop, step_times
from qsearch.data import shared_data
from qsearch.evaluation import Measurer
from qsearch.files import write_atomic, write_json
from qsearch.images import read_lr_images, read_pairs
from qsearch.measure.against import OURS, Against, measure_against, picture
from qsearch.measure.bench import parse_bench
from qsearch.measure.peers import Subject
from qsearch.measure.timers import interleave
from qsearch.models import LoadedModel, build, load, to_input
from qsearch.network import CalibratedNetwork
from qsearch.report.peers_page import cells_of, write_peers_page
from qsearch.target import load_target

ROUNDS, EVALUATION_ROUNDS, PEAK_ROUNDS = 15, 3, 15
PEERS = ("onnxruntime", "openvino", "litert", "ncnn", "torch")
PEER_LIMIT, PEAK_LIMIT = 0.85, 0.9
ABPN_LIMIT_MS, ABPN_RATIO, ABPN_LIMIT_MB, EVALUATION_LIMIT = 13.5, 0.27, 40, 0.35
PEAK = "VNNI peak"
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Network:
    """One network of the table: its published weights where they are, else a configuration of the same shapes."""

    title: str
    configuration: str
    weights: str = ""
    size: tuple[int, int] = (180, 320)
    litert: str = ""

    def model(self, data: Path | None) -> LoadedModel:
        """The float network."""
        return load(data / "weights" / self.weights) if data and self.weights else build(self.configuration)


NETWORKS = {
    "edsr": Network("EDSR-baseline ×4", "edsr_r16f64_x4"),
    "rnet": Network("RNet ×4", "edsr_r9f64_x4", "rnet9_x4.pt"),
    "srresnet": Network("SRResNet ×4, 8 blocks", "srresnet_r8_x4", "srresnet_bn8_x4.pt"),
    "carn": Network("CARN-M ×4", "carn_m_x4", "carn_m_x234.pt"),
    "imdn": Network("IMDN ×4 without attention", "imdn_lite_x4"),
    "abpn": Network("ABPN ×3", "abpn_f28_x3", "abpn_x3_fp32.pt", (360, 640), "abpn_x3_int8_qat.tflite"),
}


def quantized(network: Network, data: Path | None) -> tuple[Subject, GraphModule]:
    """What the peers get, and our integer program of it at W8A8."""
    model = network.model(data)
    images = read_lr_images(data / "calibration", 8) if data else samples.calibration_images(model.upscale)
    calibrated = CalibratedNetwork.make(model, images)
    program = calibrated.program(uniform(calibrated.sites, 8, 8))
    litert = data / "weights" / network.litert if data and network.litert else None
    return Subject(model, images, network.size, litert), program


def measure(subject: Subject, program: GraphModule, threads: int, rounds: int) -> tuple[Against, dict[str, Any]]:
    """One interleaved run, and the share of the VNNI peak that our kernels reach."""
    ours = HostNetwork(program, threads, choose=tuning.measured(threads))
    peak, peak_gmac = peak_loop(ours.isa, threads)
    run = measure_against(program, subject, PEERS, threads, rounds, {PEAK: peak})
    steps = step_times(ours, picture(subject.images, subject.size), min(rounds, PEAK_ROUNDS))
    speed = peak_gmac / min(run.extra[PEAK].samples_ms) * 1e3
    floor = sum(_needed_gmac(step) for step in steps) / speed * 1e3
    own = next(row for row in run.rows if row.name == OURS).timing.median_ms
    return run, {
        "peak_gmac_per_s": speed,
        "floor_ms": floor,
        "share_of_peak": floor / own,
        "memory_bytes": memory_bytes(program, subject.size, ours.plan.upscale, threads),
        "steps": [{"name": s.name, "algorithm": s.spec.algorithm, "best_ms": s.best_ms} for s in steps],
    }


def memory_bytes(program: GraphModule, size: tuple[int, int], upscale: int, threads: int) -> int:
    """Peak resident memory of the executable of `program` above its input and output image."""
    height, width = size
    with tempfile.TemporaryDirectory() as temporary:
        folder = build_artefact(program, Path(temporary) / "artefact", load_target("host"), name="network")
        words = [folder / "network", "--bench", "3", "--size", f"{width}x{height}", "--threads", str(threads)]
        done = subprocess.run(words, capture_output=True, check=True)
    return int(parse_bench(done.stdout, "host")["peak_rss_bytes"]) - height * width * 3 * (1 + upscale**2)


def _needed_gmac(step: StepTime) -> float:
    return step.gmac / step.spec.groups


def as_json(run: Against) -> dict[str, Any]:
    """A run without its single samples."""
    rows = [{**asdict(row), "timing": {**asdict(row.timing), "samples_ms": None}} for row in run.rows]
    return {"threads": run.conditions.threads, "rows": rows, "refused": dict(run.refused),
            "conditions": asdict(run.conditions)}  # fmt: skip


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


def section(network: Network, runs: list[Against], peaks: list[dict[str, Any]]) -> str:
    """The part of the page about one network."""
    height, width = network.size
    lines = [f"## {network.title}, {width}×{height}", ""]
    for run, peak in zip(runs, peaks, strict=True):
        threads = run.conditions.threads
        lines += [f"{threads} thread{'s' * (threads > 1)}:", "",
                  "| runtime | version | median ms | 95 % interval | ours / this | SQNR dB to float | to ours |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        lines += ["| " + " | ".join(cells_of(row)) + " |" for row in run.rows]
        lines += ["", f"The multiplications alone take {peak['floor_ms']:.2f} ms at the VNNI peak of "
                  f"{peak['peak_gmac_per_s']:.0f} GMAC/s: {peak['share_of_peak']:.0%} of our time.", ""]  # fmt: skip
        lines += [f"Not measured: {line}" for line in run.refused.values()]
    return "\n".join(lines) + "\n"


def verdicts(results: dict[str, tuple[list[Against], list[dict[str, Any]]]]) -> list[str]:
    """What was wanted, and what came of it, one line each."""
    lines = []
    for run, peak in zip(*results["edsr"], strict=True) if "edsr" in results else ():
        fastest, threads = run.fastest_int8, run.conditions.threads
        if fastest is not None and fastest.ours_over_this is not None:
            lines.append(f"EDSR-baseline at {threads} thread{'s' * (threads > 1)}: "
                         f"{fastest.ours_over_this.median:.3f} of the time of {fastest.title} "
                         f"(wanted: at most {PEER_LIMIT}), {peak['share_of_peak']:.0%} of the VNNI peak "
                         f"(wanted: at least {PEAK_LIMIT:.0%}).")  # fmt: skip
    for run, peak in zip(*results["abpn"], strict=True) if "abpn" in results else ():
        litert = next((row for row in run.rows if row.name == "litert"), None)
        own = next(row for row in run.rows if row.name == OURS)
        if litert is not None and litert.ours_over_this is not None and run.conditions.threads == 2:
            lines.append(f"ABPN ×3 to 1080p at 2 threads: {own.timing.median_ms:.1f} ms (wanted: at most "
                         f"{ABPN_LIMIT_MS}), {litert.ours_over_this.median:.3f} of LiteRT's "
                         f"{litert.timing.median_ms:.1f} ms (or at most {ABPN_RATIO}).")  # fmt: skip
        lines.append(f"ABPN ×3 to 1080p at {run.conditions.threads} thread{'s' * (run.conditions.threads > 1)}: "
                     f"{peak['memory_bytes'] / 1e6:.1f} MB of memory above the two images (wanted: at most "
                     f"{ABPN_LIMIT_MB}).")  # fmt: skip
    return lines


def evaluation_lines(found: list[dict[str, Any]]) -> str:
    """The last part of the page."""
    lines = [
        f"- {e['threads']} thread{'s' * (e['threads'] > 1)}: "
        f"{e['timings']['one allocation']['median_ms']:.0f} ms on Set14 "
        f"against {e['timings'][e['fastest_float']]['median_ms']:.0f} ms for the fastest float32 forward "
        f"({e['fastest_float']}): ratio {e['ratio']:.3f} (wanted: at most {EVALUATION_LIMIT})."
        for e in found
    ]
    return "\n".join(lines) or "Not measured."


def main() -> None:
    """Measure and write table, page and report."""
    parser = argparse.ArgumentParser(description="Whole networks against other runtimes on this machine.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds, {ROUNDS} by default")
    parser.add_argument("--only", choices=NETWORKS, help="one network, without the evaluation of an allocation")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the three files, here by default")
    given = parser.parse_args()
    data = shared_data()
    results: dict[str, tuple[list[Against], list[dict[str, Any]]]] = {}
    for name in [given.only] if given.only else NETWORKS:
        subject, program = quantized(NETWORKS[name], data)
        measured = [measure(subject, program, threads, given.rounds) for threads in (1, 2)]
        results[name] = [run for run, _ in measured], [peak for _, peak in measured]
        print(f"{name}: {', '.join(f'{run.rows[0].timing.median_ms:.1f} ms' for run, _ in measured)}")
    evaluations = [evaluation(data, threads) for threads in (1, 2)] if data and not given.only else []
    table = {name: [{**as_json(run), **peak} for run, peak in zip(*result, strict=True)]
             for name, result in results.items()}  # fmt: skip
    write_json(given.out / "table.json", {"networks": table, "evaluation": evaluations})
    first = next(iter(results.values()))[0]
    conditions = conditions_of(first, "8 low-resolution photographs")
    page = ["# Latency on the host", "", f"Made by `python results/latency-host/run.py` on {conditions['date']}: "
            f"{conditions['processor']}, load average {first[0].conditions.load_average:.2f} before the first round. "
            "Medians with the 95 % confidence interval of the median; ratios are paired, round by round."]  # fmt: skip
    page += [""]
    page += [f"- {line}" for line in verdicts(results)] + [""]
    page += [section(NETWORKS[name], *result) for name, result in results.items()]
    page += ["## Evaluating one allocation", "", evaluation_lines(evaluations), ""]
    write_atomic(given.out / "README.md", "\n".join(page))
    runs = [(NETWORKS[name].title, run) for name, (found, _) in results.items() for run in found]
    write_peers_page(given.out / "report.html", "Latency on the host", runs, conditions)
    print(json.dumps({"verdicts": verdicts(results), "evaluation": [e["ratio"] for e in evaluations]}))


if __name__ == "__main__":
    main()
