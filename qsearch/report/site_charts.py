"""Bits and sensitivity of every site, one column per convolution in the order of the data."""

import html
import math
from collections.abc import Mapping, Sequence

from qsearch.allocation import Site, SiteAllocation
from qsearch.report.axis import axis_over
from qsearch.search import Point, Sensitivity, human

WIDTH, LEFT = 1100, 76
_FRONT_ROWS = 20
_PANEL = 130


def winner_chart(sites: Sequence[Site], winner: Point, pieces: Mapping[str, str]) -> str:
    """A strip per kind of site, a cell per convolution, with its bits; `p` marks a piecewise quantizer."""
    convs, roles = _grid_of(sites)
    cell = _column_width(len(convs))
    parts = [_role_names(roles, cell)]
    for site in sites:
        column, row = _place(site, convs, roles)
        setting = winner.allocation.sites[site.name]
        bits, mark = setting.bits, "p" if setting.quantizer == "piecewise" else ""
        px, py, inner = LEFT + column * cell, row * cell, cell - 2
        fixed = " fixed" if len(site.choices) == 1 else ""
        tip = html.escape(f"{site.name}: {pieces.get(site.name) or _form(setting)}{', fixed' if fixed else ''}")
        parts.append(
            f'<g data-tip="{tip}"><rect class="cell b{bits}{fixed}" x="{px + 1}" y="{py + 1}" width="{inner}" '
            f'height="{inner}" rx="4"/><text class="in{bits} mid" x="{px + cell / 2}" y="{py + cell / 2 + 4}">'
            f"{bits}{mark}</text></g>"
        )
    parts.append(_conv_names(convs, cell, cell * len(roles) + 10))
    height = cell * len(roles) + _names_height(convs)
    return _svg(LEFT + cell * len(convs) + 8, height, parts, "Bits of every site of the winner")


def front_bits_chart(sites: Sequence[Site], points: Sequence[Point], winner: Point | None) -> str:
    """A row per point of the front, best PSNR on top; weights, inputs and skips side by side, in network order."""
    picked = {points[round(k * (len(points) - 1) / (_FRONT_ROWS - 1))].number for k in range(_FRONT_ROWS)}
    chosen = {winner.number} if winner is not None else set()
    rows = [point for point in points if point.number in picked | chosen]
    rows.sort(key=lambda point: -point.metrics["psnr_y_db"])
    convs, roles = _grid_of(sites)
    wide, high = min(max((WIDTH - LEFT - 14 * len(roles)) // len(sites), 6), 24), 17
    columns = [[site for conv in convs for site in sites if site.name == f"{conv}.{role}"] for role in roles]
    parts, px = [], LEFT
    for role, group in zip(roles, columns, strict=True):
        parts.append(f'<text class="name" x="{px}" y="14">{html.escape(role)}</text>')
        for site in group:
            for row, point in enumerate(rows):
                setting = point.allocation.sites[site.name]
                parts.append(
                    f'<rect class="cell b{setting.bits}" x="{px}" y="{22 + row * high}" width="{wide - 1}" '
                    f'height="{high - 1}" data-tip="{html.escape(f"{site.name}: {_form(setting)}")}"/>'
                )
                if setting.quantizer == "piecewise":
                    parts.append(
                        f'<text class="in{setting.bits} mid" pointer-events="none" x="{px + wide / 2 - 0.5}" '
                        f'y="{34 + row * high}">p</text>'
                    )
            px += wide
        px += 14
    for row, point in enumerate(rows):
        mark = " winner-name" if point.number in chosen else ""
        psnr = human("psnr_y_db", point.metrics["psnr_y_db"])
        parts.append(
            f'<text class="tick end{mark}" data-n="{point.number}" x="{LEFT - 8}" y="{34 + row * high}">{psnr}</text>'
        )
    return _svg(px, 28 + high * len(rows), parts, "Bits of every site along the front")


def sensitivity_chart(sites: Sequence[Site], sensitivity: Sensitivity) -> str:
    """PSNR lost when one site alone gets fewer bits, a panel per kind, a dot per measured bits, log scale."""
    convs, roles = _grid_of(sites)
    cell = _column_width(len(convs))
    right = LEFT + cell * len(convs)
    kinds = {site.name: site for site in sites}
    base = sensitivity.measurements[0].psnr_y_db
    losses = [
        (kinds[m.site], m.bits, base - m.psnr_y_db, " piecewise" if m.quantizer == "piecewise" else "")
        for m in sensitivity.measurements[1:]
        if m.site in kinds
    ]
    floor = 0.001
    y = axis_over([floor, *(max(loss, floor) for _, _, loss, _ in losses)], _PANEL - 8, 8, log=True)
    ticks = [10.0**d for d in range(-3, 3) if y.low <= 10.0**d <= y.high]
    parts = []
    for row, role in enumerate(roles):
        top = row * _PANEL
        parts.append(f'<text class="name" x="0" y="{top + 16}">{html.escape(role)}</text>')
        for value in ticks:
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{top + y(value)}" y2="{top + y(value)}"/>')
            parts.append(f'<text class="tick end" x="{LEFT - 6}" y="{top + y(value) + 4}">{value:g}</text>')
    for site, bits, loss, kind in sorted(losses, key=lambda item: -item[1]):
        column, row = _place(site, convs, roles)
        tip = html.escape(f"{site.name} at {bits} bits{kind}: {loss:+.4f} dB lost")
        px, py = LEFT + (column + 0.5) * cell, row * _PANEL + y(max(loss, floor))
        parts.append(f'<circle class="cell b{bits}" cx="{px}" cy="{py:.1f}" r="5.5" data-tip="{tip}"/>')
    parts.append(_conv_names(convs, cell, _PANEL * len(roles) + 6))
    return _svg(right + 8, _PANEL * len(roles) + _names_height(convs), parts, "PSNR lost by every site alone")


def bits_legend(bits: Sequence[int] = tuple(range(2, 9))) -> str:
    """The colours of the bits."""
    return '<span class="legend">bits ' + "".join(f'<i class="k{b}">{b}</i>' for b in bits) + "</span>"


def mean_bits(sites: Sequence[Site], point: Point, kind: str) -> float:
    """Mean bits of the sites of one kind; NaN where the network has none."""
    found = [point.allocation.bits(site.name) for site in sites if site.kind == kind]
    return sum(found) / len(found) if found else math.nan


def _form(setting: SiteAllocation) -> str:
    """Bits and quantizer of a site, as far as its allocation says."""
    if setting.quantizer == "uniform":
        return f"{setting.bits} bits"
    words = [f"{setting.bits} bits piecewise"]
    words += [f"{setting.inside:.1%} inside"] if setting.inside is not None else []
    words += [f"outer steps {setting.ratio} ×"] if setting.ratio is not None else []
    words += [f"span within {setting.span}"] if setting.span is not None else []
    return ", ".join(words)


def _grid_of(sites: Sequence[Site]) -> tuple[list[str], list[str]]:
    """Convolutions and roles (weight, input, skip, …) in order of appearance."""
    convs = list(dict.fromkeys(site.name.rpartition(".")[0] for site in sites))
    found = dict.fromkeys(site.name.rpartition(".")[2] for site in sites)
    order = {"weight": 0, "input": 1}
    return convs, sorted(found, key=lambda role: order.get(role, 2))


def _place(site: Site, convs: list[str], roles: list[str]) -> tuple[int, int]:
    conv, _, role = site.name.rpartition(".")
    return convs.index(conv), roles.index(role)


def _column_width(count: int) -> int:
    return min(max((WIDTH - LEFT) // count, 26), 46)


def _names_height(convs: Sequence[str]) -> int:
    """Room for the longest slanted name."""
    return round(16 + 5.2 * max(map(len, convs)))


def _role_names(roles: Sequence[str], high: int) -> str:
    return "".join(
        f'<text class="name end" x="{LEFT - 8}" y="{row * high + high / 2 + 4}">{html.escape(role)}</text>'
        for row, role in enumerate(roles)
    )


def _conv_names(convs: Sequence[str], cell: int, top: float) -> str:
    return "".join(
        f'<text class="tick end" transform="translate({LEFT + (column + 0.5) * cell + 4} {top}) rotate(-55)">'
        f"{html.escape(conv)}</text>"
        for column, conv in enumerate(convs)
    )


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<div class="wide"><svg class="fixed-size" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{html.escape(label)}">{"".join(parts)}</svg></div>'
    )
