"""The operation latency table as bars, as an SVG file and in a page with predictions and findings."""

import html
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from qsearch.files import write_atomic
from qsearch.measure.lint import Finding
from qsearch.measure.operations import OperationTable, OperationTime
from qsearch.report.axis import axis_over
from qsearch.report.pictures import STYLE

WIDTH, LEFT, RIGHT, BAR = 760, 300, 70, 22


def operations_chart(times: Sequence[OperationTime], caption: str) -> str:
    """Bars of the operations with their confidence intervals, the dearest on top, as an SVG element."""
    rows = sorted(times, key=lambda time: -time.ms)
    height = BAR * len(rows) + 40
    x = axis_over([0.0, *(time.high_ms for time in rows)], LEFT, WIDTH - RIGHT, margin=0.0)
    parts = []
    for value in x.ticks():
        parts.append(f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="6" y2="{height - 34}"/>')
        parts.append(f'<text class="tick mid" x="{x(value)}" y="{height - 20}">{value:g}</text>')
    for index, time in enumerate(rows):
        parts.append(_bar(time, x(0), x(time.ms), x(time.low_ms), x(time.high_ms), 8 + BAR * index))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="name mid" x="{middle}" y="{height - 4}">{html.escape(caption)}</text>')
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(caption)}">'
        f"{''.join(parts)}</svg>"
    )


def _bar(time: OperationTime, zero: float, end: float, low: float, high: float, top: float) -> str:
    middle = top + (BAR - 6) / 2
    name, size = html.escape(time.label), f"{time.size[1]}×{time.size[0]}"
    whisker = (
        f'<path d="M{low} {middle}H{high}M{low} {middle - 3}V{middle + 3}M{high} {middle - 3}V{middle + 3}" '
        'stroke="currentColor" stroke-width="1.2" fill="none"/>'
        if high > low
        else ""
    )
    return (
        f'<text class="name end" x="{LEFT - 8}" y="{middle + 4}">{name}</text>'
        f'<rect class="front" x="{zero}" y="{top}" width="{max(end - zero, 1):.1f}" height="{BAR - 6}" rx="2" '
        f'data-tip="{name}, {size}, {html.escape(time.form)}: {time.ms:.3f} ms '
        f'({time.low_ms:.3f} to {time.high_ms:.3f})"/>{whisker}'
        f'<text class="tick" x="{max(end, high) + 6}" y="{middle + 4}">{time.ms:.3g}</text>'
    )


def axis_caption(table: OperationTable) -> str:
    """What the bars are of."""
    kind = "modelled latency" if table.modelled else "latency"
    return f"{kind}, ms, {table.target}, {table.isa}, {table.threads} thread{'s' * (table.threads > 1)}"


def save_operations(path: Path, times: Sequence[OperationTime], table: OperationTable) -> None:
    """Write the chart as an SVG file of its own."""
    svg = operations_chart(times, axis_caption(table))
    svg = svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    opening, _, rest = svg.partition(">")
    write_atomic(path, f"{opening}><style>{STYLE}</style>{rest}\n")


def write_operations_page(
    path: Path,
    table: OperationTable,
    times: Sequence[OperationTime],
    predictions: Sequence[Mapping[str, str]],
    findings: Mapping[str, Sequence[Finding]],
) -> None:
    """Write the page to `path`, atomically: one HTML file that loads nothing.

    `times` are the lines of `table` to show; `predictions` are table rows of equal keys; `findings` are by network.
    """
    sections = []
    for size in sorted({time.size for time in times}, key=lambda size: size[0] * size[1]):
        chosen = [time for time in times if time.size == size]
        chart = operations_chart(chosen, axis_caption(table))
        sections.append(f"<h2>Input of {size[1]}×{size[0]}</h2><figure class='card'>{chart}</figure>")
    if predictions:
        sections.append(
            f"<h2>Whole networks</h2>{_table(list(predictions[0]), [list(p.values()) for p in predictions])}"
        )
    for network, found in findings.items():
        sections.append(f"<h2>{html.escape(network)}: what costs more than it brings</h2>{_findings(found)}")
    known = {key: value for key, value in table.conditions.items() if value not in (None, [None, None], (None, None))}
    conditions = [[key.replace("_", " "), str(value)] for key, value in known.items()]
    sections.append(f"<h2>Conditions</h2>{_table(['', ''], conditions, 'conditions')}")
    page = Template((files("qsearch.report") / "page.html").read_text()).substitute(
        title=html.escape(f"Operations on {table.target}"),
        lead=html.escape(_lead(table)),
        sections="\n".join(sections),
        notes="{}",
        crop_width="264px",
    )
    write_atomic(path, page)


def _lead(table: OperationTable) -> str:
    if table.modelled:
        return "Every kernel call by shape, modelled from its machine code: none of these figures is measured."
    return (
        "Every kernel call by shape, timed alone in interleaved rounds: medians with their 95 % confidence intervals. "
        f"A whole network takes the sum of its calls and {table.overhead_ms:.3f} ms."
    )


def _findings(found: Sequence[Finding]) -> str:
    if not found:
        return "<p>Nothing that would save one hundredth of its time.</p>"
    rows = [
        [
            item.rule,
            item.operation,
            item.alternative or "nothing",
            f"{item.saves:.2f}",
            str(len(item.layers)),
            item.advice,
        ]
        for item in found
    ]
    return _table(["finding", "operation", "instead", "saves ms", "layers", "advice"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    head = "" if kind == "conditions" else line(heads, "th")
    body = "".join(line(row, "td") for row in rows)
    return f'<div class="card table"><table class="{kind}">{head}{body}</table></div>'
