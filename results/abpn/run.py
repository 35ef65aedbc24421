"""ABPN at int8: the authors' weights without and with training, the residuals of their Table 2, 1080p on this machine.

    python results/abpn/run.py [--part ptq|qat|residuals|speed] [--runs runs/abpn]

needs ../shared/data (and the extra `peers` for LiteRT). `ptq` quantizes the authors' float weights without originals;
`qat` goes on from there with originals; both are measured with the executable of their artefact. `residuals` trains the
five variants of the network alike from random weights and quantizes each without training. `speed` times the artefact
of `qat` against LiteRT running the authors' own file. Trainings are kept in the folder of runs: an interrupted script
continues there. The page is written once all four parts are there: table.json and README.md here.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from qsearch.allocation import uniform
from qsearch.compile.artefact import build_artefact
from qsearch.compile.host import HostNetwork
from qsearch.compile.run_artefact import run_executable
from qsearch.data import shared_data
from qsearch.evaluation import Upscaler, evaluate
from qsearch.files import read_json, write_atomic, write_json
from qsearch.host import detect_host
from qsearch.images import Pair, read_lr_images, read_pairs
from qsearch.integer.storage import load_program
from qsearch.measure.against import OURS, measure_against
from qsearch.measure.devices import open_device
from qsearch.measure.modelled import choice_for
from qsearch.measure.peers import Subject, open_peer
from qsearch.metrics import Protocol, psnr
from qsearch.models import LoadedModel, build, load
from qsearch.models.abpn import RESIDUALS
from qsearch.network import CalibratedNetwork
from qsearch.passes import prepare
from qsearch.quant import Calibration
from qsearch.quant.finetune import finetune
from qsearch.quant.finetune_settings import settings_of
from qsearch.quant.finetuned import FineTuned
from qsearch.target import load_target
from qsearch.training import QuantizedSettings, TrainingSettings, train, train_quantized

HERE = Path(__file__).parent
UPSCALE, SIZE = 3, (360, 640)
WEIGHTS, AUTHORS_PTQ, AUTHORS_QAT = "abpn_x3_fp32.pt", "abpn_x3_int8_ptq.tflite", "abpn_x3_int8_qat.tflite"
CALIBRATION_IMAGES, IMAGES = 32, 100
PTQ_ITERATIONS = 1000
"""Chosen on DIV2K's crops: 250 give 0.012 dB less."""
PTQ_WANTED = {"Set5": 33.50, "Set14": 29.76}
QAT_DROP = 0.02
ROUNDS, BENCH_ROUNDS = 15, 64
PARTS = ("ptq", "qat", "residuals", "speed")
QAT = QuantizedSettings(iterations=3000, batch=8, patch=48, learning_rate=2e-4, average=0.999, teacher=1.0,
                        calibration_weight=0.0, validate_every=250)  # fmt: skip
RESIDUAL = TrainingSettings(iterations=10_000, batch=8, patch=32, learning_rate=1e-3, validate_every=2000)

PAGE = """# ABPN ×3 at int8

Made by `python results/abpn/run.py` on {date} ({cpu}). All convolutions, the first and the last included, have 8-bit
weights and inputs; the clip is part of the addition of the anchor, so that the picture is rounded once, to whole grey
levels. The integer networks are measured with the executables of their artefacts. Y: {protocol_y}. RGB: {protocol_rgb},
on 100 crops of DIV2K's validation images.

| network | Set5, Y | Set14, Y | DIV2K, RGB |
|---|---|---|---|
| float, the authors' weights | {float} |
| int8, PTQ without originals | {ptq} |
| int8, QAT | {qat} |
| float, trained on the 291 originals for as long | {alike} |
| int8, the authors' PTQ file in LiteRT | {authors_ptq} |
| int8, the authors' QAT file in LiteRT | {authors_qat} |

PTQ: {calibration} images for calibration, quantizers fine-tuned for
{ptq_iterations} iterations on {images} low-resolution DIV2K images; with default
settings alone it is {plain}. QAT: from there, {qat_iterations} iterations of {qat_batch} patches of {qat_patch} px of
the 291 training images, relative rate {qat_rate:g}, towards the output of the float network (`--teacher 1`): the
authors trained on better originals, and these make even the float network worse. Kept is what is best on DIV2K's crops.

## Residuals

The variants of the paper's Table 2, each trained alike from random weights ({residual_iterations} iterations of
{residual_batch} patches of {residual_patch} px, a short schedule) and quantized to int8 without training, default
settings. RGB on the same images. The paper's drops: none 1.93 dB, in feature space 0.78, anchor 0.13.

| residual | float | int8 | drop, dB | Set5 drop (Y) |
|---|---|---|---|---|
{residuals}

## 640×360 to 1080p

The QAT artefact's network against LiteRT (XNNPACK) running the authors' QAT file, in interleaved rounds; memory is the
peak of the artefact's process, and what LiteRT's process grew by after it was imported.

| threads | ours, ms | ours, frames/s | LiteRT, ms | LiteRT, frames/s | ours / LiteRT | ours, MB | LiteRT, MB |
|---|---|---|---|---|---|---|---|
{speed}

{verdict}
"""

LITERT = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
before = kib("VmRSS")
interpreter = Interpreter(model_path=sys.argv[1], num_threads=int(sys.argv[4]))
source = interpreter.get_input_details()[0]["index"]
interpreter.resize_tensor_input(source, [1, int(sys.argv[2]), int(sys.argv[3]), 3])
interpreter.allocate_tensors()
interpreter.set_tensor(source, np.zeros((1, int(sys.argv[2]), int(sys.argv[3]), 3), np.uint8))
interpreter.invoke()
print((kib("VmHWM") - before) * 1024)
"""


@dataclass(frozen=True)
class Work:
    """The images, the folder of runs, and how much of everything."""

    data: Path
    runs: Path
    limit: int | None
    qat: QuantizedSettings
    residual: TrainingSettings
    console: Console

    def images(self) -> list[NDArray[np.uint8]]:
        """Low-resolution images without originals."""
        return read_lr_images(self.data / "calibration", self.limit or IMAGES)

    def pairs(self, name: str) -> list[Pair]:
        """Set5, Set14, or the crops of DIV2K."""
        folder = self.data / "validation" if name == "DIV2K" else self.data / "benchmarks" / name / f"x{UPSCALE}"
        return read_pairs(folder, UPSCALE, self.limit)

    def scores(self, upscale_image: Upscaler) -> dict[str, float]:
        """PSNR on Y by set, and in RGB on DIV2K."""
        found = {name: evaluate(upscale_image, self.pairs(name), UPSCALE).psnr_y_db for name in ("Set5", "Set14")}
        rgb = [psnr(upscale_image(pair.lr), pair.hr, Protocol("rgb", 1)) for pair in self.pairs("DIV2K")]
        return {**found, "DIV2K": float(np.mean(rgb))}


def calibrated(work: Work, model: LoadedModel, name: str) -> CalibratedNetwork:
    """Calibrated once and kept, so that every part has the same."""
    file = work.runs / f"{name}-calibration.safetensors"
    if not file.is_file():
        CalibratedNetwork.make(model, work.images()[:CALIBRATION_IMAGES]).calibration.save(file)
    return CalibratedNetwork(model, Calibration.load(file, prepare(model.module)))


def artefact_of(work: Work, network: CalibratedNetwork, parameters: FineTuned, name: str) -> Path:
    """The artefact of an integer network, compiled once."""
    folder, target = work.runs / f"{name}-artefact", load_target("host")
    if not folder.is_dir():
        program = network.program(parameters.allocation, parameters)
        build_artefact(program, folder, target, name="abpn", model="abpn_x3", choose=choice_for(target))
    return folder


def ptq(work: Work) -> dict[str, Any]:
    """Post-training quantization of the authors' weights."""
    network = calibrated(work, load(work.data / "weights" / WEIGHTS), "authors")
    allocation = uniform(network.sites, 8, 8)
    settings = settings_of(PTQ_ITERATIONS if work.limit is None else 2, False, 0)
    checkpoint = work.runs / "ptq-checkpoint.pt"
    parameters = finetune(network.calibration, allocation, work.images(), settings, checkpoint=checkpoint)
    parameters.save(work.runs / "ptq.safetensors")
    artefact = artefact_of(work, network, parameters, "ptq")
    protocol = Protocol("rgb", 1, work.pairs("DIV2K")[0].lr_source)
    return {
        "float": work.scores(network.model.run),
        "plain": work.scores(HostNetwork(network.program(allocation)).run),
        "int8": work.scores(lambda image: run_executable(artefact, image)),
        "authors_ptq": work.scores(in_litert(work, network.model, AUTHORS_PTQ)),
        "authors_qat": work.scores(in_litert(work, network.model, AUTHORS_QAT)),
        "settings": asdict(settings),
        "protocol_y": evaluate(network.model.run, work.pairs("Set5")[:1], UPSCALE).protocol,
        "protocol_rgb": str(protocol),
    }


def in_litert(work: Work, model: LoadedModel, file: str) -> Upscaler:
    """The authors' own int8 network, opened for the size of each image."""

    def upscale_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        return open_peer("litert", Subject(model, [image], (height, width), work.data / "weights" / file), 1)(image)

    return upscale_image


def qat(work: Work) -> dict[str, Any]:
    """Training from there, and of the float network alike."""
    network = calibrated(work, load(work.data / "weights" / WEIGHTS), "authors")
    start = FineTuned.load(_needed(work.runs / "ptq.safetensors", "ptq"))
    folders = [work.data / "train" / "bsd200", work.data / "train" / "t91"]
    trained = partial(train_quantized, network, start.allocation, folders, console=work.console, start=start)
    result = trained(output=work.runs / "qat", settings=work.qat, validation=work.data / "validation")
    originals = replace(work.qat, levels="float", teacher=0.0)
    alike = trained(output=work.runs / "float-alike", settings=originals)
    assert result.parameters is not None
    assert alike.network is not None
    artefact = artefact_of(work, network, result.parameters, "qat")
    return {
        "int8": work.scores(lambda image: run_executable(artefact, image)),
        "alike": work.scores(alike.network.run),
        "settings": asdict(work.qat),
    }


def residuals(work: Work) -> dict[str, Any]:
    """The five variants, trained alike and quantized."""
    found: dict[str, Any] = {"settings": asdict(work.residual)}
    folders = [work.data / "train" / "bsd200", work.data / "train" / "t91"]
    for residual in RESIDUALS:
        model = build(f"abpn_{residual}_f28_x{UPSCALE}")
        result = train(model, folders, work.runs / f"residual-{residual}", work.residual, console=work.console)
        network = calibrated(work, load(result.weights), f"residual-{residual}")
        host = HostNetwork(network.program(uniform(network.sites, 8, 8)))
        found[residual] = {"float": work.scores(network.model.run), "int8": work.scores(host.run)}
        print(residual, found[residual], flush=True)
    return found


def speed(work: Work) -> list[dict[str, Any]]:
    """The QAT artefact's network against LiteRT at one and two threads."""
    artefact, tflite = _needed(work.runs / "qat-artefact", "qat"), work.data / "weights" / AUTHORS_QAT
    subject = Subject(load(work.data / "weights" / WEIGHTS), work.images()[:8], SIZE, tflite)
    rows = []
    for threads in (1, 2):
        run = measure_against(load_program(artefact), subject, ("litert",), threads, ROUNDS)
        times = {row.name: row for row in run.rows}
        if "litert" not in times:
            raise SystemExit(run.refused["litert"])
        bench = open_device(load_target("host")).bench(artefact, BENCH_ROUNDS, SIZE, threads)
        done = subprocess.run([sys.executable, "-c", LITERT, str(tflite), *map(str, SIZE), str(threads)],
                              check=True, capture_output=True, text=True)  # fmt: skip
        rows.append({"threads": threads, "ours_ms": times[OURS].timing.median_ms, "artefact_ms": bench.latency_ms,
                     "litert_ms": times["litert"].timing.median_ms, "ratio": asdict(_ratio(times["litert"])),
                     "ours_peak_bytes": bench.peak_rss_bytes, "litert_peak_bytes": int(done.stdout.split()[-1]),
                     "conditions": asdict(run.conditions)})  # fmt: skip
    return rows


def _ratio(row: Any) -> Any:
    assert row.ours_over_this is not None
    return row.ours_over_this


def _needed(path: Path, part: str) -> Path:
    if not path.exists():
        raise SystemExit(f"{path} is not there: run --part {part} first")
    return path


def problems(found: dict[str, Any]) -> list[str]:
    """What was wanted and is not so, in words."""
    wrong = []
    for name, wanted in PTQ_WANTED.items():
        if found["ptq"]["int8"][name] < wanted:
            wrong.append(f"PTQ on {name} gives {found['ptq']['int8'][name]:.3f} dB (wanted: {wanted:.2f})")
        drop = found["ptq"]["float"][name] - found["qat"]["int8"][name]
        if drop > QAT_DROP:
            wrong.append(f"QAT on {name} is {drop:.3f} dB below the authors' float weights (wanted: {QAT_DROP})")
    drops = {name: drop_of(found["residuals"][name]) for name in RESIDUALS}
    image_space = max(drops[name] for name in ("anchor", "nearest", "bilinear"))
    if not image_space < drops["feature"] < drops["none"]:
        wrong.append("the drops are not in the paper's order: image space and anchor, feature space, none")
    return wrong


def drop_of(row: dict[str, dict[str, float]], name: str = "DIV2K") -> float:
    """What int8 costs a residual, in dB."""
    return row["float"][name] - row["int8"][name]


def page(found: dict[str, Any], conditions: dict[str, Any]) -> str:
    """The README."""

    def cells(scores: dict[str, float]) -> str:
        return " | ".join(f"{scores[name]:.3f}" for name in ("Set5", "Set14", "DIV2K"))

    variants = []
    for name in RESIDUALS:
        row = found["residuals"][name]
        drops = f"{drop_of(row):.3f} | {drop_of(row, 'Set5'):.3f}"
        variants.append(f"| {name} | {row['float']['DIV2K']:.3f} | {row['int8']['DIV2K']:.3f} | {drops} |")
    rows = []
    for row in found["speed"]:
        ours, other = row["ours_ms"], row["litert_ms"]
        memory = f"{row['ours_peak_bytes'] / 1e6:.1f} | {row['litert_peak_bytes'] / 1e6:.1f}"
        times = f"{ours:.1f} | {1e3 / ours:.1f} | {other:.1f} | {1e3 / other:.1f} | {row['ratio']['median']:.3f}"
        rows.append(f"| {row['threads']} | {times} | {memory} |")
    wrong = [f"- {text}" for text in problems(found)]
    verdict = "\n".join(["Not reached:\n", *wrong]) if wrong else "Everything that was wanted holds."
    settings, short = found["qat"]["settings"], found["residuals"]["settings"]
    return PAGE.format(
        **conditions,
        protocol_y=found["ptq"]["protocol_y"],
        protocol_rgb=found["ptq"]["protocol_rgb"],
        float=cells(found["ptq"]["float"]),
        ptq=cells(found["ptq"]["int8"]),
        plain=cells(found["ptq"]["plain"]).replace(" |", ","),
        qat=cells(found["qat"]["int8"]),
        alike=cells(found["qat"]["alike"]),
        authors_ptq=cells(found["ptq"]["authors_ptq"]),
        authors_qat=cells(found["ptq"]["authors_qat"]),
        calibration=CALIBRATION_IMAGES,
        images=IMAGES,
        ptq_iterations=found["ptq"]["settings"]["iterations"],
        **{f"qat_{key}": settings[key] for key in ("iterations", "batch", "patch")},
        qat_rate=settings["learning_rate"],
        **{f"residual_{key}": short[key] for key in ("iterations", "batch", "patch")},
        residuals="\n".join(variants),
        speed="\n".join(rows),
        verdict=verdict,
    )


def main() -> None:
    """Make the parts; write the page once all are there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--runs", type=Path, default=Path("runs/abpn"))
    parser.add_argument("--qat-iterations", type=int, default=QAT.iterations)
    parser.add_argument("--residual-iterations", type=int, default=RESIDUAL.iterations)
    parser.add_argument("--limit", type=int, help="only the first images of each set, and little PTQ: a trial")
    arguments = parser.parse_args()
    data = shared_data()
    if data is None:
        raise SystemExit("the folder of images and weights ../shared/data is not beside this checkout")
    work = Work(data, arguments.runs, arguments.limit, replace(QAT, iterations=arguments.qat_iterations),
                replace(RESIDUAL, iterations=arguments.residual_iterations),
                Console(stderr=True, highlight=False, soft_wrap=True))  # fmt: skip
    makers: dict[str, Callable[[Work], Any]] = {"ptq": ptq, "qat": qat, "residuals": residuals, "speed": speed}
    for part in [arguments.part] if arguments.part else PARTS:
        write_json(work.runs / f"{part}.json", makers[part](work))
        print(part, "done", flush=True)
    files = {part: work.runs / f"{part}.json" for part in PARTS}
    if not all(file.is_file() for file in files.values()):
        print(json.dumps({"made": arguments.part}))
        return
    found = {part: read_json(file) for part, file in files.items()}
    conditions = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "cpu": detect_host().cpu}
    out = HERE if work.limit is None else work.runs
    write_json(out / "table.json", {**conditions, **found, "not_reached": problems(found)})
    write_atomic(out / "README.md", page(found, conditions))
    print(json.dumps({"ptq": found["ptq"]["int8"], "qat": found["qat"]["int8"], "not_reached": len(problems(found))}))


if __name__ == "__main__":
    main()
