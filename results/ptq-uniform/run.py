"""Uniform post-training quantization of four published networks, on the compiled integer kernels.

    python results/ptq-uniform/run.py

needs ../shared/data. Every figure is the integer network's, first and last layer and skip operands included; weights
and inputs have the bits of the column, skip operands 8. Calibration: 32 low-resolution images of DIV2K, no originals.
Writes table.json and README.md here.
"""

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qsearch.allocation import uniform
from qsearch.compile.host import HostNetwork
from qsearch.data import shared_data
from qsearch.evaluation import evaluate
from qsearch.files import write_atomic, write_json
from qsearch.host import detect_host
from qsearch.images import read_lr_images, read_pairs
from qsearch.models import load
from qsearch.network import CalibratedNetwork

NETWORKS = ("rnet9_x4.pt", "edsr_r8f64_x2.pt", "srresnet_bn8_x4.pt", "abpn_x3_fp32.pt")
BITS = (8, 6, 5, 4, 3, 2)
SETS = ("Set5", "Set14")
CALIBRATION_IMAGES = 32
LARGEST_DROP_DB = 0.12

PAGE = """# Uniform post-training quantization

Made by `python results/ptq-uniform/run.py` on {date} ({cpu}). PSNR in dB of the compiled integer network; in brackets
the loss against the float network. Every convolution has the bits of the column for its weight and its input, first
and last included (the image itself has 8); skip operands have 8. Protocol: {protocol}. Calibrated on
{calibration} low-resolution DIV2K images without originals, default settings.

| network | set | float | {head} |
|---|---|---|{rules}|
{rows}

At 8 bits the largest loss is {worst:.3f} dB (wanted: at most {limit} dB).
"""


def measure(name: str, folder: Path) -> list[dict[str, Any]]:
    """PSNR and SSIM of one network at all bits on both sets."""
    model = load(folder / "weights" / name)
    images = read_lr_images(folder / "calibration", CALIBRATION_IMAGES)
    network = CalibratedNetwork.make(model, images)
    host = HostNetwork(network.program(uniform(network.sites, 8, 8)))
    rows = []
    for dataset in SETS:
        pairs = read_pairs(folder / "benchmarks" / dataset / f"x{model.upscale}", model.upscale)
        floating = evaluate(model.run, pairs, model.upscale)
        for bits in BITS:
            host.set_program(network.program(uniform(network.sites, bits, bits)))
            score = evaluate(host.run, pairs, model.upscale)
            rows.append({"network": model.name, "set": dataset, "bits": bits, "psnr_y_db": score.psnr_y_db,
                         "ssim_y": score.ssim_y, "float_psnr_y_db": floating.psnr_y_db, "float_ssim_y": floating.ssim_y,
                         "protocol": score.protocol})  # fmt: skip
            print(model.name, dataset, bits, f"{score.psnr_y_db:.3f} of {floating.psnr_y_db:.3f}", flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown rows, one per network and set."""
    lines = []
    for network, dataset in dict.fromkeys((row["network"], row["set"]) for row in rows):
        mine = [row for row in rows if (row["network"], row["set"]) == (network, dataset)]
        cells = [f"{row['psnr_y_db']:.2f} (−{row['float_psnr_y_db'] - row['psnr_y_db']:.2f})" for row in mine]
        lines.append(f"| {network} | {dataset} | {mine[0]['float_psnr_y_db']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every network and write the table."""
    data = shared_data()
    if data is None:
        raise SystemExit("the benchmark data folder ../shared/data is not beside this checkout")
    rows = [row for name in NETWORKS for row in measure(name, data)]
    worst = max(row["float_psnr_y_db"] - row["psnr_y_db"] for row in rows if row["bits"] == 8)
    date, cpu = datetime.now(UTC).strftime("%Y-%m-%d"), detect_host().cpu
    here = Path(__file__).parent
    write_json(here / "table.json", {"date": date, "cpu": cpu, "python": platform.python_version(), "rows": rows,
                                     "worst_w8a8_drop_db": worst})  # fmt: skip
    head = " | ".join(f"w{bits}a{bits}" for bits in BITS)
    protocol = rows[0]["protocol"].replace("4 px cropped", "the upscale in pixels cropped")
    page = PAGE.format(date=date, cpu=cpu, protocol=protocol, calibration=CALIBRATION_IMAGES, head=head,
                       rules="|".join(["---"] * len(BITS)), rows=table(rows), worst=worst,
                       limit=LARGEST_DROP_DB)  # fmt: skip
    write_atomic(here / "README.md", page)
    print(json.dumps({"worst_w8a8_drop_db": worst}))


if __name__ == "__main__":
    main()
