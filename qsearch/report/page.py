"""The page: sections in the order in which a person asks, in one file that loads nothing."""

import base64
import html
import io
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from PIL import Image

from qsearch.files import write_atomic
from qsearch.report.data import Crop, Picture, ReportData
from qsearch.report.front_chart import costs_to_draw, front_chart, worth_drawing
from qsearch.report.site_charts import bits_legend, front_bits_chart, mean_bits, sensitivity_chart, winner_chart
from qsearch.search import OBJECTIVES, Point, front, human

_CROP_PIXELS = 264


def write_report(path: Path | str, data: ReportData) -> None:
    """Write the page to `path`, atomically: one HTML file, light and dark, readable without a network.

    Raises `QsearchError` when the file cannot be written.
    """
    sections = [
        _tiles(data),
        _front(data),
        _sites(data),
        _crops(data),
        _sensitivity(data),
        _run(data),
        _conditions(data),
    ]
    page = Template((files("qsearch.report") / "page.html").read_text()).substitute(
        title=html.escape(data.title),
        lead=_lead(data),
        sections="\n".join(section for section in sections if section),
        notes=json.dumps({point.number: _note(data, point) for point in data.points}).replace("</", "<\\/"),
        crop_width=f"{_CROP_PIXELS}px",
    )
    write_atomic(path, page)


def _lead(data: ReportData) -> str:
    objectives = " and ".join(objective.label for objective in data.objectives)
    best = front(data.points, data.objectives)
    text = f"{len(data.points)} trials of bit allocations, searched for {objectives}; {len(best)} of them are unbeaten."
    if data.winner is not None:
        text += f" Chosen: trial {data.winner.number}{', ' + data.reason if data.reason else ''}."
    return html.escape(text)


def _tiles(data: ReportData) -> str:
    """The winner's figures, each beside what it is compared with."""
    if data.winner is None:
        return ""
    w8a8 = next((point for point in data.points if point.origin == "uniform w8a8"), None)
    tiles = []
    for name in (name for name in OBJECTIVES if name in data.winner.metrics):
        value = data.winner.metrics[name]
        known = [(label, metrics[name]) for label, metrics in data.references.items() if name in metrics]
        if w8a8 is not None and name in w8a8.metrics:
            known.append(("W8A8", w8a8.metrics[name]))
        against = [_against(name, value, label, other) for label, other in known]
        lines = "".join(f"<br>{html.escape(line)}" for line in against)
        tiles.append(
            f'<div class="tile"><span>{html.escape(OBJECTIVES[name].label)}</span><b>{human(name, value)}</b>'
            f"<span>{lines.removeprefix('<br>')}</span></div>"
        )
    weight, inputs = (mean_bits(data.sites, data.winner, kind) for kind in ("weight", "input"))
    tiles.append(
        f'<div class="tile"><span>mean bits</span><b>W{weight:.1f} A{inputs:.1f}</b><span>weights, inputs</span></div>'
    )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _against(name: str, value: float, label: str, other: float) -> str:
    if name == "psnr_y_db":
        return f"{value - other:+.3f} dB to {label}"
    return f"{value / other:.2f} × {label}" if other else label


def _note(data: ReportData, point: Point) -> str:
    """What the page shows of a trial under the pointer."""
    rows = [f"trial {point.number}, {_origin(point)}"]
    rows += [f"{OBJECTIVES[name].label}: {human(name, v)}" for name, v in point.metrics.items() if name in OBJECTIVES]
    weight, inputs = (mean_bits(data.sites, point, kind) for kind in ("weight", "input"))
    return "\n".join([*rows, f"mean bits: W{weight:.1f} A{inputs:.1f}"])


def _origin(point: Point) -> str:
    return f"{point.origin}, fine-tuned" if point.polished else point.origin


def _front(data: ReportData) -> str:
    charts = "".join(front_chart(data, cost) for cost in costs_to_draw(data))
    marks = (
        ('<circle class="front" cx="8" cy="8" r="4"/>', "unbeaten in this chart"),
        ('<circle class="trial" cx="8" cy="8" r="3"/>', "other trials"),
        ('<rect class="uniform" x="3.5" y="3.5" width="9" height="9" rx="1.5"/>', "the same bits everywhere"),
        ('<circle class="winner" cx="8" cy="8" r="6"/>', "the winner"),
    )
    key = "".join(f'<span><svg width="16" height="16">{mark}</svg>{text}</span>' for mark, text in marks)
    return (
        f"<h2>The front</h2><p>Every trial is measured{_but(data)}; up and to the left is better. "
        "Point at a trial for its figures.</p>"
        f'<div class="key">{key}</div><div class="charts">{charts}</div>{_table(data)}'
    )


def _but(data: ReportData) -> str:
    modelled = any("latency_modelled_ms" in point.metrics for point in data.points)
    return ", but its latency, which is modelled from machine code" if modelled else ""


def _table(data: ReportData) -> str:
    best = sorted(front(data.points, data.objectives), key=lambda point: -point.metrics["psnr_y_db"])
    reference = data.references.get("float", {}).get("psnr_y_db")
    costs = [name for name in OBJECTIVES if name != "psnr_y_db" and all(name in point.metrics for point in best)]
    heads = ["trial", "from", "PSNR (Y)", *(["to float"] if reference is not None else [])]
    heads += [*(OBJECTIVES[name].label for name in costs), "mean W", "mean A"]
    rows = []
    for point in best:
        psnr = point.metrics["psnr_y_db"]
        cells = [str(point.number), _origin(point), human("psnr_y_db", psnr)]
        cells += [f"{psnr - reference:+.3f} dB"] if reference is not None else []
        cells += [human(name, point.metrics[name]) for name in costs]
        cells += [f"{mean_bits(data.sites, point, kind):.2f}" for kind in ("weight", "input")]
        chosen = data.winner is not None and point.number == data.winner.number
        rows.append(_row(cells, f' data-n="{point.number}"{" class=chosen" if chosen else ""}'))
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    return (
        f"<h2>Points of the front</h2><p>{len(best)} unbeaten trials, the best picture first.</p>"
        f'<div class="card table"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _row(cells: Sequence[str], attributes: str = "") -> str:
    return f"<tr{attributes}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def _sites(data: ReportData) -> str:
    best, drawn = front(data.points, data.objectives), worth_drawing(data)
    parts = []
    if data.winner is not None:
        parts.append(
            "<h2>Bits of the winner</h2><p>Weights, inputs and skip operands of every convolution, from the first to "
            f"the last. Pale cells are fixed{_piecewise(data)}.</p>{bits_legend()}"
            f'<div class="card">{winner_chart(data.sites, data.winner, data.pieces)}</div>'
        )
    parts.append(
        "<h2>Bits along the front</h2><p>A row per point, the best picture on top; "
        f"a column per site in network order.</p>{bits_legend()}"
        f'<div class="card">{front_bits_chart(data.sites, [p for p in best if p in drawn] or best, data.winner)}</div>'
    )
    return "".join(parts)


def _piecewise(data: ReportData) -> str:
    return "; p is a piecewise quantizer, with coarser steps for outliers" if data.pieces else ""


def _crops(data: ReportData) -> str:
    if not data.crops:
        return ""
    crops = "".join(_crop(crop) for crop in data.crops)
    return (
        f"<h2>Pictures</h2><p>The same crop by every method, each output pixel enlarged without smoothing.</p>{crops}"
    )


def _crop(crop: Crop) -> str:
    pictures = "".join(_picture(picture) for picture in crop.pictures)
    return f'<div class="crop"><h3>{html.escape(crop.title)}</h3><div class="pictures">{pictures}</div></div>'


def _picture(picture: Picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture.pixels).save(buffer, "PNG", optimize=True)
    source = base64.b64encode(buffer.getvalue()).decode()
    label, note = html.escape(picture.label), html.escape(picture.note)
    return (
        f'<figure><img alt="{label}" src="data:image/png;base64,{source}">'
        f"<figcaption><b>{label}</b>{'<br>' + note if note else ''}</figcaption></figure>"
    )


def _sensitivity(data: ReportData) -> str:
    if data.sensitivity is None or len(data.sensitivity.measurements) < 2:
        return ""
    base = data.sensitivity.measurements[0].psnr_y_db
    return (
        "<h2>Sensitivity</h2><p>PSNR in dB that is lost when one site alone gets fewer bits and everything else keeps "
        f"the base allocation ({base:.3f} dB); losses up to 0.001 dB lie on the lowest line.</p>{bits_legend()}"
        f'<div class="card">{sensitivity_chart(data.sites, data.sensitivity)}</div>'
    )


def _run(data: ReportData) -> str:
    if not data.commands:
        return ""
    steps = "".join(f"<p>{html.escape(what)}</p><pre>{html.escape(command)}</pre>" for what, command in data.commands)
    return f"<h2>Run it</h2>{steps}"


def _conditions(data: ReportData) -> str:
    rows = "".join(_row(item) for item in data.conditions.items())
    return (
        "<h2>Conditions</h2><p>What every figure on this page was measured on.</p>"
        f'<div class="card"><table class="conditions">{rows}</table></div>'
    )
