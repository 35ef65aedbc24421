"""The page of `bench --against`: one table and one plot for every number of threads, and the conditions."""

import html
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from qsearch.files import write_atomic
from qsearch.measure.against import OURS, Against, Row
from qsearch.report.axis import axis_over

WIDTH, LEFT, RIGHT, BAR = 560, 150, 70, 26


def write_peers_page(
    path: Path | str, title: str, runs: Sequence[tuple[str, Against]], conditions: Mapping[str, str]
) -> None:
    """Write the page to `path`, atomically: one HTML file that loads nothing. `runs` are (network, its run)."""
    sections = [_section(network, run) for network, run in runs]
    rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in conditions.items())
    sections.append(f'<h2>Conditions</h2><div class="card table"><table class="conditions">{rows}</table></div>')
    page = Template((files("qsearch.report") / "page.html").read_text()).substitute(
        title=html.escape(title),
        lead="The same networks in several runtimes on this machine: interleaved rounds, medians with 95 % confidence "
        "intervals, ratios paired round by round.",
        sections="\n".join(sections),
        notes="{}",
        crop_width="264px",
    )
    write_atomic(path, page)


def peers_chart(run: Against) -> str:
    """Bars of the medians with their confidence intervals, the fastest on top, as an SVG element."""
    rows = sorted(run.rows, key=lambda row: row.timing.median_ms)
    height = BAR * len(rows) + 40
    x = axis_over([0.0, *(row.timing.high_ms for row in rows)], LEFT, WIDTH - RIGHT, margin=0.0)
    parts = []
    for value in x.ticks():
        parts.append(f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="6" y2="{height - 34}"/>')
        parts.append(f'<text class="tick mid" x="{x(value)}" y="{height - 20}">{value:g}</text>')
    for index, row in enumerate(rows):
        parts.append(_bar(row, x(0), x(row.timing.median_ms), x(row.timing.low_ms), x(row.timing.high_ms), index))
    parts.append(f'<text class="name mid" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{height - 4}">latency, ms</text>')
    label = f"Latency at {run.conditions.threads} threads"
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _bar(row: Row, zero: float, end: float, low: float, high: float, index: int) -> str:
    top, middle = 8 + BAR * index, 8 + BAR * index + (BAR - 8) / 2
    kind = "front" if row.name == OURS else "trial"
    name = "name winner-name" if row.name == OURS else "name"
    return (
        f'<text class="{name} end" x="{LEFT - 8}" y="{middle + 4}">{html.escape(row.title)}</text>'
        f'<rect class="{kind}" x="{zero}" y="{top}" width="{max(end - zero, 1):.1f}" height="{BAR - 8}" rx="2" '
        f'data-tip="{html.escape(row.title)}: {row.timing.median_ms:.2f} ms '
        f'({row.timing.low_ms:.2f} to {row.timing.high_ms:.2f})"/>'
        f'<path d="M{low} {middle}H{high}M{low} {middle - 4}V{middle + 4}M{high} {middle - 4}V{middle + 4}" '
        'stroke="currentColor" stroke-width="1.2" fill="none"/>'
        f'<text class="tick" x="{max(end, high) + 6}" y="{middle + 4}">{row.timing.median_ms:.1f}</text>'
    )


def _section(network: str, run: Against) -> str:
    threads = run.conditions.threads
    plural = "s" * (threads > 1)
    refused = "".join(f"<p>Not measured: {html.escape(line)}</p>" for line in run.refused.values())
    return (
        f"<h2>{html.escape(network)}, {threads} thread{plural}</h2>"
        f'<div class="charts"><figure>{peers_chart(run)}</figure></div>{refused}'
        f'<div class="card table"><table>{_head()}{"".join(map(_table_row, run.rows))}</table></div>'
    )


def _head() -> str:
    heads = ("runtime", "version", "median ms", "95 % interval", "ours / this", "SQNR to float, dB", "SQNR to ours, dB")
    return "<tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>"


def _table_row(row: Row) -> str:
    cells = cells_of(row)
    chosen = ' class="chosen"' if row.name == OURS else ""
    return f"<tr{chosen}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def cells_of(row: Row) -> list[str]:
    """Title, version, median, interval, ratio and the two agreements of a row, as text."""
    ratio, timing = row.ours_over_this, row.timing
    return [
        row.title,
        row.version,
        f"{timing.median_ms:.2f}",
        f"{timing.low_ms:.2f}–{timing.high_ms:.2f}",
        "" if ratio is None else f"{ratio.median:.3f} ({ratio.low:.3f}–{ratio.high:.3f})",
        _decibel(row.sqnr_float_db),
        "" if row.name == OURS else _decibel(row.sqnr_ours_db),
    ]


def _decibel(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f}"
