"""The page of results/outlier-ptq, from its table."""

from pathlib import Path
from typing import Any

from methods import OUR_ROWS, PER_TENSOR_ROWS, PUBLISHED_ROWS, SPANS

from qsearch.files import write_atomic

SETS = ("Set5", "Set14", "B100")
PAGE = """# Outlier-aware post-training quantization

Made by `python results/outlier-ptq/run.py` on {date} ({cpu}). Every figure is that of the **integer** network (but
*as printed*, which no integer network runs). Convolutions have the bits of the table for weights and inputs; first,
last and upsampling layers and all skip operands have 8, as the published method counts. Calibration and fine-tuning see
the low-resolution images of `data/calibration` alone, no originals. Cells: PSNR in dB (loss against the float network),
SSIM. Protocol: {protocol}.

*Per tensor*: weights with one range per convolution, rounded to nearest, as published; it costs these small networks
so much that the other rows would say little, so all of them have one scale per channel and roundings that keep the sum
of every kernel. *Published*: activations by moving averages of minimum and maximum, or by the observer named;
fine-tuning (FT) of bounds, weight scales and breakpoints by turns, 500 iterations, with learning rates that move them
(the printed ones do not). *Ours*: piecewise quantizers of least squared error; SAFT trains all of them at once; *fitted
weights* solves every layer for what it really reads and rounds with compensation, in closed form; SAFT after it also
turns roundings.

## W4A4, every step on rnet9_x4

| method | Set5 | Set14 | B100 | step on Set5 | seconds | float passes | bright images, mean error |
|---|---|---|---|---|---|---|---|
{ablation}

Seconds are of one thread, after calibration ({calibration_s:.0f} s); a float pass is one over the {images} calibration
images as whole ({pass_s:.0f} s). The last column is the largest mean signed error of a colour channel, in grey levels
against the float network, over {bright} bright or saturated images of the three sets, and in brackets the largest of a
single image. *Published* rows are in the order of the paper's ablation: MinMax, vanilla FT, SAFT, PLQ, PLQ + SAFT.

## All networks

| network | bits | method | Set5 | Set14 | B100 |
|---|---|---|---|---|---|
{networks}

## Span

What lies outside may be so few lattice steps away that low-bit kernels still fit. 4-bit weights, `fitted weights`, PSNR
of rnet9_x4{span_time}. A piecewise quantizer of span 31 takes its values from the 5-bit uniform lattice and one of span
63 from the 6-bit one, which the same kernels run: where only time counts, uniform inputs of 5 or 6 bits are at least as
good; piecewise ones pay where codes are stored or moved.

| quantizers | Set5 | Set14 | B100 | ms | of uniform W8A8 |
|---|---|---|---|---|---|
{spans}
{wanted}

Where 6 bits miss, 8 bits lose most of it already (see `results/ptq-uniform`): the ranges of the 8-bit layers and skip
operands also hold black beside white and saturated colours, which photographs lack; pictures of such stay right.
"""


def write_page(path: Path, table: dict[str, Any]) -> None:
    """Write README.md from what the table holds."""
    rows = table["rows"]
    first = "rnet9_x4.pt"
    if f"{first} 32 float" not in rows:
        return
    floating = rows[f"{first} 32 float"]
    bright = next((row["colour"]["images"] for row in rows.values() if "colour" in row), 0)
    text = PAGE.format(
        date=table["date"], cpu=table["cpu"], protocol=floating["sets"]["Set5"]["protocol"], bright=bright, images=100,
        calibration_s=floating["calibration_s"], pass_s=floating["pass_s"], ablation=_ablation(rows, first),
        networks=_networks(rows), spans=_spans(rows, first, table.get("latency")), span_time=_timed(table),
        wanted=_wanted(rows))  # fmt: skip
    write_atomic(path, text)


def _cells(row: dict[str, Any], floating: dict[str, Any]) -> list[str]:
    found = []
    for name in SETS:
        score, wanted = row["sets"][name], floating["sets"][name]
        drop = wanted["psnr_y_db"] - score["psnr_y_db"]
        found.append(f"{score['psnr_y_db']:.2f} ({-drop:+.3f}) {score['ssim_y']:.4f}")
    return found


def _ablation(rows: dict[str, Any], network: str) -> str:
    floating = rows[f"{network} 32 float"]
    lines = [f"| float | {' | '.join(_cells(floating, floating))} | | | | |"]
    for group, methods in (("per tensor", PER_TENSOR_ROWS), ("published", PUBLISHED_ROWS), ("ours", OUR_ROWS)):
        lines.append(f"| *{group}* | | | | | | | |")
        before = None
        for method in methods:
            row = rows.get(f"{network} 4 {method.name}")
            if row is None:
                continue
            psnr, colour = row["sets"]["Set5"]["psnr_y_db"], row["colour"]
            step = "" if before is None else f"{psnr - before:+.2f}"
            before = psnr
            lines.append(
                f"| {method.name} | {' | '.join(_cells(row, floating))} | {step} | {row['seconds']:.0f} | "
                f"{row['seconds'] / floating['pass_s']:.1f} | {colour['worst_mean']:.2f} ({colour['worst']:.1f}) |"
            )
    return "\n".join(lines)


def _networks(rows: dict[str, Any]) -> str:
    lines = []
    for network in dict.fromkeys(key.split(" ")[0] for key in rows):
        floating = rows.get(f"{network} 32 float")
        if floating is None:
            continue
        lines.append(f"| {network.removesuffix('.pt')} | 32 | float | {' | '.join(_cells(floating, floating))} |")
        for bits in (6, 4):
            for group, methods in (("published", PUBLISHED_ROWS), ("ours", OUR_ROWS)):
                for method in methods:
                    row = rows.get(f"{network} {bits} {method.name}")
                    if row is not None:
                        name = f"{method.name} ({group})"
                        lines.append(f"| | {bits} | {name} | {' | '.join(_cells(row, floating))} |")
    return "\n".join(lines)


def _timed(table: dict[str, Any]) -> str:
    latency = table.get("latency")
    if not latency:
        return ""
    height, width = latency["size"]
    return (f", and the time of the network at {width}x{height}, {latency['threads']} thread, "
            f"{latency['rounds']} interleaved rounds")  # fmt: skip


def _spans(rows: dict[str, Any], network: str, latency: dict[str, Any] | None) -> str:
    floating, lines = rows[f"{network} 32 float"], []
    times = latency["rows"] if latency else {}
    for name, entry in times.items():
        if name not in {method.name for method in SPANS}:
            lines.append(f"| {name} | | | | {entry['ms']:.1f} | {entry.get('ratio', 1.0):.3f} |")
    for method in SPANS:
        row = rows.get(f"{network} 4 {method.name}")
        if row is not None:
            entry = times.get(method.name)
            timed = f"{entry['ms']:.1f} | {entry['ratio']:.3f}" if entry else "|"
            kind = "piecewise, " if method.kind == "piecewise" else ""
            lines.append(f"| {kind}{method.name} | {' | '.join(_cells(row, floating))} | {timed} |")
    return "\n".join(lines)


LIMITS = (
    ("rnet9_x4.pt 4 + SAFT", "Set5", 0.45), ("rnet9_x4.pt 4 + SAFT", "B100", 0.20),
    ("rnet9_x4.pt 4 + fitted weights + SAFT", "Set5", 0.30), ("rnet9_x4.pt 4 + fitted weights + SAFT", "B100", 0.14),
    *((f"{network} 6 {row}", name, limit) for network in ("rnet9_x4.pt", "edsr_r8f64_x2.pt", "srresnet_bn8_x4.pt")
      for row in ("+ SAFT", "+ fitted weights + SAFT") for name, limit in (("Set5", 0.07), ("B100", 0.05))),
)  # fmt: skip


def _wanted(rows: dict[str, Any]) -> str:
    lines = ["", "## Wanted and reached", "", "| row | set | loss, dB | wanted |", "|---|---|---|---|"]
    for key, name, limit in LIMITS:
        network = key.split(" ")[0]
        if key in rows and f"{network} 32 float" in rows:
            drop = rows[f"{network} 32 float"]["sets"][name]["psnr_y_db"] - rows[key]["sets"][name]["psnr_y_db"]
            lines.append(
                f"| {key.replace('.pt', '')} | {name} | {drop:.3f} | at most {limit} {'✓' if drop <= limit else '✗'} |"
            )
    return "\n".join(lines)
