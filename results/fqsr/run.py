"""Fully quantized networks by training: FQSR's widths on two published networks, against float and against PTQ.

    python results/fqsr/run.py [--network NAME] [--iterations N] [--runs runs/fqsr]

needs ../shared/data. Everything is quantized: head, body, tail and skip operands (`fqsr-wt-fm-sc`). Each variant is
trained from the published weights on the 291 images for as long as the float network it is compared with, which is
trained alike without quantizers. PSNR is the compiled integer network's, but for what is only compared. Trainings are
kept in the folder of runs; an interrupted script continues there, and what is finished is not repeated. With
`--network` only that network's runs are made; the page is of the networks that are there. Writes table.json and
README.md here.
"""

import argparse
import json
import os
import re
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn
from torch.fx import GraphModule

from qsearch.allocation import Allocation
from qsearch.commands.quantize import parse_bits
from qsearch.compile.host import HostNetwork
from qsearch.cost import ops_fqsr, peak_bytes
from qsearch.cost.fqsr import live_maps, memory_mb
from qsearch.data import shared_data
from qsearch.evaluation import evaluate
from qsearch.files import read_json, write_atomic, write_json
from qsearch.host import detect_host
from qsearch.images import Pair, read_lr_images, read_pairs
from qsearch.models import LoadedModel, load
from qsearch.network import CalibratedNetwork
from qsearch.passes.quantizers import Quantizer
from qsearch.passes.rewrite import module_of
from qsearch.quant.calibration import Calibration
from qsearch.quant.finetune import finetune
from qsearch.quant.finetune_settings import settings_of as settings_for_ptq
from qsearch.quant.finetuned import FineTuned
from qsearch.quant.twin import Twin
from qsearch.training import QuantizedSettings, train_quantized

HERE = Path(__file__).parent
SETS = ("Set5", "Set14")
CALIBRATION_IMAGES, FINETUNE_IMAGES = 32, 100
COST_SIZE = (180, 320)
LIMITS = {"8-8-8": 0.02, "6-6-8": 0.05, "4-4-8": 0.35}
"""Largest drop in dB against the float network trained for as long."""
GAINS = {"4-4-8": 0.1, "3-3-8": 0.5}
"""Least gain in dB over post-training quantization of the same allocation, fine-tuned."""
SKIP_LIMIT = 0.02


@dataclass(frozen=True)
class Network:
    """A network, the size of its batches, which decides the time of an iteration, and whom its high bits learn from."""

    weights: str
    batch: int
    patch: int
    teacher: float
    """Share of the float network's output at 8 and 6 bits: all where these originals make even float no better."""


NETWORKS = {
    "srresnet": Network("srresnet_bn8_x4.pt", 4, 24, 0.0),
    "edsr": Network("edsr_r8f64_x2.pt", 4, 32, 1.0),
}


@dataclass(frozen=True)
class Variant:
    """One training: its bits and how its settings differ."""

    title: str
    bits: str
    changes: tuple[tuple[str, Any], ...] = ()


TRAINED = (("calibration_weight", 0.0),)
TAUGHT = (("teacher", 1.0), *TRAINED)
"""Low bits learn the float network's output, and none the calibration loss: what is best on DIV2K's crops."""
RATES = {"8-8-8": 2e-4, "6-6-8": 5e-4, "4-4-8": 5e-3, "3-3-8": 5e-3}
"""Peak of the relative learning rate: fewer bits need larger steps before a weight changes its integer."""
INTERVAL_UNITS = {"8-8-8": 4.0, "6-6-8": 2.0, "4-4-8": 1.0, "3-3-8": 1.0}
"""Learning rate of the intervals as a multiple of it: at 8 bits they have most to gain, from ranges that hold colours
which photographs lack."""
VARIANTS = {
    "float": Variant("float, trained alike", "8-8-8", (("levels", "float"), ("interval_unit", 1.0))),
    "8-8-8": Variant("8/8/8", "8-8-8", TRAINED),
    "6-6-8": Variant("6/6/8", "6-6-8", TRAINED),
    "4-4-8": Variant("4/4/8", "4-4-8", TAUGHT),
    "3-3-8": Variant("3/3/8", "3-3-8", TAUGHT),
    "fixed": Variant("fixed intervals", "4-4-8", (("learned_intervals", False), ("calibration_weight", 0.0))),
    "learned": Variant("learned intervals", "4-4-8", (("calibration_weight", 0.0),)),
    "sqcl": Variant("learned intervals, calibration loss", "4-4-8"),
    "odd": Variant("the same with FQSR's levels, fake-quantized", "4-4-8", (("levels", "fqsr-odd"),)),
}
ABLATION = ("fixed", "learned", "sqcl", "odd")
HIGH = ("8-8-8", "6-6-8")
RESULTS = (*HIGH, "4-4-8", "3-3-8")

PAGE = """# Fully quantized networks by training

Made by `python results/fqsr/run.py` on {date} ({cpu}): each training has {iterations} iterations on
the {images} training images (bsd200, t91), Adam along a cosine from {rates} (relative);
SRResNet in batches of {srresnet.batch} patches of {srresnet.patch} px, EDSR of {edsr.batch} of {edsr.patch} px.
Targets are the originals for SRResNet at 8/8/8 and 6/6/8, else the output of the float network (`--teacher 1`), which
these originals do not make better (EDSR) or which low bits learn faster.
Weights, inputs and skip operands have the bits of the row, first and last layer included; the image has 8. PSNR in dB
of the compiled integer network, in brackets the loss against the float network that was trained for as long. PTQ: the
same bits without training on originals, and with its parameters fine-tuned on {finetune} low-resolution images, where
the trainings begin; all keep what is best on crops of DIV2K's validation images. Protocol: {protocol}.

| network | bits | {head} |
|---|---|{rules}|
{rows}

Wanted: at most {limits} dB below float. Gain of training over fine-tuned PTQ: at least {gains} dB.

## What brings it, at 4/4/8

Each row trained for as long, with L1 to the originals (and FQSR's calibration loss where it says so); the first
intervals are the moving average of the maximum over 20 batches, as in FQSR, where the networks above begin at the
parameters of fine-tuned post-training quantization.

| network | training | {sets} |
|---|---|{set_rules}|
{ablation}

## Skip operands

The trained networks with 8-bit skip operands, and the same parameters with skip operands in float (twin in PyTorch).

| network | bits | {sets} |
|---|---|{set_rules}|
{skips}

Peak activations at {size} (LR): FQSR counts feature maps at low resolution only; the true peak counts everything alive,
maps at high resolution included, as our compiled network holds it.

| network | bits | FQSR's OPs, 10⁹ | FQSR's memory, MB (float32) | true peak, MB |
|---|---|---|---|---|
{memory}

{verdict}
"""


def settings_of(network: Network, key: str, iterations: int) -> QuantizedSettings:
    """The settings of one training."""
    variant = VARIANTS[key]
    common = QuantizedSettings(iterations=iterations, batch=network.batch, patch=network.patch,
                               learning_rate=RATES[variant.bits], interval_unit=INTERVAL_UNITS[variant.bits],
                               teacher=network.teacher if key in HIGH else 0.0,
                               validate_every=max(iterations // 10, 1), checkpoint_every=100)  # fmt: skip
    return replace(common, **dict(variant.changes))


def scores(model: LoadedModel | HostNetwork, sets: dict[str, list[Pair]], upscale: int) -> dict[str, float]:
    """PSNR on Y by set."""
    return {name: evaluate(model.run, pairs, upscale).psnr_y_db for name, pairs in sets.items()}


def measured(name: str, data: Path, runs: Path, iterations: int, limit: int | None, console: Console) -> dict[str, Any]:
    """All trainings of one network, and what they are compared with; `limit` images of each set."""
    network = NETWORKS[name]
    model = load(data / "weights" / network.weights)
    upscale = model.upscale
    sets = {s: read_pairs(data / "benchmarks" / s / f"x{upscale}", upscale, limit) for s in SETS}
    images = read_lr_images(data / "calibration", limit or FINETUNE_IMAGES)
    calibrated = _calibrated(model, images[:CALIBRATION_IMAGES], runs / name / "calibration.safetensors")
    found: dict[str, Any] = {"name": model.name, "iterations": iterations, "trained": {}, "ptq": {}, "finetuned": {},
                             "skips": {}, "memory": {}, "published": scores(model, sets, upscale),
                             "protocol": evaluate(model.run, sets["Set5"][:1], upscale).protocol}  # fmt: skip
    host: HostNetwork | None = None

    def of_program(program: GraphModule) -> dict[str, float]:
        nonlocal host
        host = host or HostNetwork(program)
        host.set_program(program)
        return scores(host, sets, upscale)

    tuning = settings_for_ptq(None if limit is None else iterations, False, 0)
    folders = [data / "train" / "bsd200", data / "train" / "t91"]
    for key, variant in VARIANTS.items():
        allocation = parse_bits(f"fqsr-{variant.bits}", calibrated.sites)
        settings = settings_of(network, key, iterations)
        output = runs / name / f"{key}-{iterations}"
        tuned = None
        if key in RESULTS:
            kept = runs / name / f"ptq-{key}.pt"
            tuned = finetune(calibrated.calibration, allocation, images, tuning, checkpoint=kept)
        result = train_quantized(
            calibrated, allocation, folders, output, settings, data / "validation", console, start=tuned
        )
        if result.parameters is None:
            assert result.network is not None
            found["trained"][key] = scores(result.network, sets, upscale)
            continue
        found["trained"][key] = of_program(calibrated.program(allocation, result.parameters))
        if tuned is not None:
            found["ptq"][key] = of_program(calibrated.program(allocation))
            found["finetuned"][key] = of_program(calibrated.program(allocation, tuned))
            found["skips"][key] = _skips(calibrated, allocation, result.parameters, sets)
            found["memory"][key] = _memory(calibrated, allocation)
        print(name, key, found["trained"][key], flush=True)
    return found


def _calibrated(model: LoadedModel, images: list[Any], file: Path) -> CalibratedNetwork:
    """Calibrated once and kept, so that every run belongs to the same parameters."""
    from qsearch.passes import prepare

    if not file.is_file():
        CalibratedNetwork.make(model, images).calibration.save(file)
    return CalibratedNetwork(model, Calibration.load(file, prepare(model.module)))


def _skips(
    network: CalibratedNetwork, allocation: Allocation, parameters: FineTuned, sets: dict[str, list[Pair]]
) -> dict[str, dict[str, float]]:
    """PSNR of the twin with its skip operands as they are, and in float."""
    model, found = network.model, {}
    for title in ("quantized", "float"):
        twin = Twin(network.calibration, allocation, parameters).requires_grad_(False)
        if title == "float":
            free_skips(twin, network.calibration.graph)
        found[title] = scores(LoadedModel(twin, "", "", model.upscale, model.white), sets, model.upscale)
    return found


def free_skips(twin: Twin, source: GraphModule) -> None:
    """Let every skip operand of `twin`, made of the graph `source`, pass its quantizer by."""
    nodes = {node.name: node for node in twin.graph.graph.nodes}
    for node in source.graph.nodes:
        for operand in node.args[1:] if node.op == "call_module" else ():
            if isinstance(module_of(source, operand), Quantizer):
                conv = nodes[node.name]
                index = node.args.index(operand)
                quantizer = conv.args[index]
                if not isinstance(twin.graph.get_submodule(str(quantizer.target)), nn.Identity):
                    conv.args = (*conv.args[:index], quantizer.args[0], *conv.args[index + 1 :])
    twin.graph.graph.eliminate_dead_code()
    twin.graph.recompile()


def _memory(network: CalibratedNetwork, allocation: Allocation) -> dict[str, float]:
    """OPs and memory by FQSR's rules, and the true peak of the integer network."""
    height, width = COST_SIZE
    layers = network.layers(COST_SIZE)
    graph = network.calibration.graph
    maps, skip_bits = live_maps(graph), max(allocation.bits(s.name) for s in network.sites if s.kind == "skip")
    return {
        "ops_fqsr": ops_fqsr(layers, {layer.name: allocation.bits(f"{layer.name}.input") for layer in layers}),
        "memory_fqsr_mb": memory_mb(height, width, 64, maps, skip_bits),
        "memory_float_mb": memory_mb(height, width, 64, maps, 32),
        "peak_mb": peak_bytes(network.program(allocation), height, width) / 1e6,
    }


def problems(networks: dict[str, Any]) -> list[str]:
    """What was wanted and is not so, in words."""
    found = [f"{NETWORKS[key].weights} is not trained" for key in NETWORKS.keys() - networks.keys()]
    for result in networks.values():
        trained, name = result["trained"], result["name"]
        for dataset in SETS:
            for bits, limit in LIMITS.items():
                drop = trained["float"][dataset] - trained[bits][dataset]
                if drop > limit:
                    found.append(f"{name} {bits} on {dataset} is {drop:.3f} dB below float (wanted: {limit})")
            for bits, gain in GAINS.items():
                better = trained[bits][dataset] - result["finetuned"][bits][dataset]
                if better < gain:
                    found.append(f"{name} {bits} on {dataset} gains {better:.3f} dB over PTQ (wanted: {gain})")
            if not trained["fixed"][dataset] < trained["learned"][dataset] < trained["sqcl"][dataset]:
                found.append(f"{name} on {dataset}: fixed < learned < with the calibration loss does not hold")
            for bits in LIMITS:
                cost = result["skips"][bits]["float"][dataset] - result["skips"][bits]["quantized"][dataset]
                if cost > SKIP_LIMIT:
                    found.append(f"{name} {bits} on {dataset}: 8-bit skips cost {cost:.3f} dB (wanted: {SKIP_LIMIT})")
    return found


def page(networks: dict[str, Any], conditions: dict[str, Any]) -> str:
    """The README."""

    def cells(values: dict[str, float], floating: dict[str, float]) -> str:
        return " | ".join(f"{values[s]:.3f} (−{floating[s] - values[s]:.3f})" for s in SETS)

    rows, ablation, skips, memory = [], [], [], []
    for result in networks.values():
        trained, name = result["trained"], result["name"]
        floating = trained["float"]
        for title, values in (("float as published", result["published"]), ("float, trained alike", floating)):
            plain = " | ".join(f"{values[s]:.3f}" for s in SETS)
            rows.append(f"| {name} | {title} | {plain} |{' |' * 2 * len(SETS)}")
        for bits in RESULTS:
            ptq = " | ".join(f"{result['ptq'][bits][s]:.3f} | {result['finetuned'][bits][s]:.3f}" for s in SETS)
            rows.append(f"| {name} | {bits.replace('-', '/')} | {cells(trained[bits], floating)} | {ptq} |")
            ours = result["skips"][bits]
            both = " | ".join(f"{ours['quantized'][s]:.3f}, float {ours['float'][s]:.3f}" for s in SETS)
            skips.append(f"| {name} | {bits.replace('-', '/')} | {both} |")
            costs = result["memory"][bits]
            counted = f"{costs['memory_fqsr_mb']:.2f} ({costs['memory_float_mb']:.2f})"
            label = bits.replace("-", "/")
            memory.append(f"| {name} | {label} | {costs['ops_fqsr']:.3f} | {counted} | {costs['peak_mb']:.2f} |")
        for key in ABLATION:
            ablation.append(f"| {name} | {VARIANTS[key].title} | {cells(trained[key], floating)} |")
    wrong = problems(networks)
    verdict = (
        "Everything that was wanted holds." if not wrong else "Not reached:\n\n" + "\n".join(f"- {w}" for w in wrong)
    )
    head = " | ".join(SETS) + " | " + " | ".join(f"{s} PTQ | {s} PTQ fine-tuned" for s in SETS)
    return PAGE.format(
        **conditions,
        **NETWORKS,
        head=head,
        rules="|".join(["---"] * 3 * len(SETS)),
        rows="\n".join(rows),
        sets=" | ".join(SETS),
        set_rules="|".join(["---"] * len(SETS)),
        ablation="\n".join(ablation),
        skips="\n".join(skips),
        memory="\n".join(memory),
        verdict=verdict,
        finetune=FINETUNE_IMAGES,
        limits=" / ".join(f"{limit} ({bits.replace('-', '/')})" for bits, limit in LIMITS.items()),
        gains=" / ".join(f"{gain} ({bits.replace('-', '/')})" for bits, gain in GAINS.items()),
        size=f"{COST_SIZE[1]}x{COST_SIZE[0]}",
    )


def main() -> None:
    """Train what is not trained yet; write the page of the networks that are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=list(NETWORKS))
    parser.add_argument("--iterations", type=int, default=3000)
    parser.add_argument("--runs", type=Path, default=Path("runs/fqsr"))
    parser.add_argument("--limit", type=int, help="only the first images of each set, and little PTQ: a trial")
    arguments = parser.parse_args()
    data = shared_data()
    if data is None:
        raise SystemExit("the folder of images and weights ../shared/data is not beside this checkout")
    if arguments.network:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for name in [arguments.network] if arguments.network else list(NETWORKS):
        found = measured(name, data, arguments.runs, arguments.iterations, arguments.limit, console)
        write_json(arguments.runs / f"{name}.json", found)
    files = {name: arguments.runs / f"{name}.json" for name in NETWORKS}
    networks = {name: read_json(file) for name, file in files.items() if file.is_file()}
    first = next(iter(networks))
    settings = settings_of(NETWORKS[first], VARIANTS["4-4-8"], networks[first]["iterations"])
    iterations = " and ".join(f"{result['iterations']} ({result['name']})" for result in networks.values())
    rates = ", ".join(f"{rate:g} ({bits.replace('-', '/')})" for bits, rate in RATES.items())
    protocol = re.sub(r"\d px cropped", "the upscale in pixels cropped", networks[first]["protocol"])
    conditions = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "cpu": detect_host().cpu, "images": 291,
                  "iterations": iterations, "rates": rates, "protocol": protocol}  # fmt: skip
    out = HERE if arguments.limit is None else arguments.runs
    write_json(out / "table.json", {**conditions, "settings": asdict(settings), "networks": networks,
                                     "not_reached": problems(networks)})  # fmt: skip
    write_atomic(out / "README.md", page(networks, conditions))
    drops = {
        bits: max(r["trained"]["float"][s] - r["trained"][bits][s] for r in networks.values() for s in SETS)
        for bits in RESULTS
    }
    print(json.dumps({"largest_drop_db": drops, "not_reached": len(problems(networks))}))


if __name__ == "__main__":
    main()
