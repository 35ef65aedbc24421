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
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from page import page, problems
from remaining import CROPS, remaining_error
from rich.console import Console
from torch import nn
from torch.fx import GraphModule
from variants import (
    CALIBRATION_IMAGES,
    COST_SIZE,
    FINETUNE_IMAGES,
    NETWORKS,
    RATES,
    RESULTS,
    SETS,
    VARIANTS,
    settings_of,
)

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
from qsearch.training import train_quantized

HERE = Path(__file__).parent
ITERATIONS = 1000


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
                             "skips": {}, "memory": {}, "remaining": {}, "published": scores(model, sets, upscale),
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
            found["remaining"][key] = remaining_error(calibrated, allocation, result.parameters, images[-CROPS:])
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


def main() -> None:
    """Train what is not trained yet; write the page of the networks that are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=list(NETWORKS))
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
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
    settings = settings_of(NETWORKS[first], "4-4-8", networks[first]["iterations"])
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
