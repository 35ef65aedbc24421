"""PSNR against one cost: every trial, the front, the uniform allocations, the references and the winner."""

import html
import math
from collections.abc import Sequence

import numpy as np

from qsearch.report.axis import Axis, axis_over
from qsearch.report.data import FrontData, ReportData
from qsearch.search import OBJECTIVES, Point, human, non_dominated
from qsearch.search.front import Trial
from qsearch.search.history import Finished

WIDTH, HEIGHT = 560, 380
LEFT, RIGHT, TOP, BOTTOM = 52, 62, 16, 46
_MARKED = ("uniform", "whole images at")
"""Origins of the trials that are drawn as squares and named: what the others are to beat."""
_BELOW_BICUBIC_DB = 0.5
"""Trials further below bicubic than this are worthless and would flatten the picture of the others."""


def costs_to_draw(data: ReportData) -> list[str]:
    """The costs that every trial has and that differ between trials, objectives first."""
    objectives = [objective.name for objective in data.objectives]
    names = [*objectives, *(name for name in OBJECTIVES if name not in objectives)]
    return [
        name
        for name in names
        if OBJECTIVES[name].direction == "minimize"
        and all(name in point.metrics for point in data.points)
        and len({point.metrics[name] for point in data.points}) > 1
    ]


def front_chart(data: ReportData | FrontData, cost: str) -> str:
    """The chart as an SVG element; trials carry `data-n` so that the page can show and link them."""
    floor = _floor(data)
    shown = _worth(data.points, floor)
    lines = {name: m["psnr_y_db"] for name, m in data.references.items() if m.get("psnr_y_db", -math.inf) >= floor}
    values = [point.metrics[cost] for point in shown]
    x = axis_over(values, LEFT, WIDTH - RIGHT, log=min(values) > 0 and max(values) > 4 * min(values))
    y = axis_over([*(point.metrics["psnr_y_db"] for point in shown), *lines.values()], HEIGHT - BOTTOM, TOP)
    parts = [_grid(x, y, cost), *(_reference(y, name, psnr) for name, psnr in lines.items())]
    best = _front(shown, cost)
    parts.append(_steps(best, cost, x, y))
    on_front = {point.number for point in best}
    parts += [_dot(point, cost, x, y, "front" if point.number in on_front else "trial") for point in shown]
    parts += [_uniform(point, cost, x, y) for point in shown if point.origin.startswith(_MARKED)]
    if data.winner is not None and data.winner in shown:
        parts.append(_winner(data.winner, cost, x, y))
    hidden = len(data.points) - len(shown)
    note = f" {hidden} trials below {floor:.1f} dB are not drawn." if hidden else ""
    label = html.escape(OBJECTIVES[cost].label)
    return (
        f"<figure><figcaption>PSNR against {label}.{note}</figcaption>"
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="PSNR against {label}">'
        f"{''.join(parts)}</svg></figure>"
    )


def worth_drawing(data: ReportData) -> list[Point]:
    """The trials that are not far worse than bicubic; all of them where every one is, or where bicubic is not known."""
    return _worth(data.points, _floor(data))


def _worth(points: Sequence[Trial], floor: float) -> list[Trial]:
    return [point for point in points if point.metrics["psnr_y_db"] >= floor] or list(points)


def _floor(data: ReportData | FrontData) -> float:
    return data.references.get("bicubic", {}).get("psnr_y_db", -math.inf) - _BELOW_BICUBIC_DB


def _front(points: Sequence[Finished], cost: str) -> list[Finished]:
    values = np.array([(-point.metrics["psnr_y_db"], point.metrics[cost]) for point in points])
    return [points[index] for index in non_dominated(values)]


def _grid(x: Axis, y: Axis, cost: str) -> str:
    parts = []
    for value in y.ticks():
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value)}" y2="{y(value)}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y(value) + 4}">{value:g}</text>')
    for value in x.ticks():
        parts.append(f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="tick mid" x="{x(value)}" y="{HEIGHT - BOTTOM + 18}">{human(cost, value)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="name mid" x="{middle}" y="{HEIGHT - 6}">{html.escape(OBJECTIVES[cost].label)}</text>')
    parts.append(f'<text class="name" x="{LEFT - 44}" y="{TOP - 4}">dB</text>')
    return "".join(parts)


def _reference(y: Axis, name: str, psnr: float) -> str:
    return (
        f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(psnr)}" y2="{y(psnr)}"/>'
        f'<text class="name" x="{WIDTH - RIGHT + 6}" y="{y(psnr) + 4}">{html.escape(name)}</text>'
    )


def _steps(front: Sequence[Finished], cost: str, x: Axis, y: Axis) -> str:
    """The front as the staircase that it is: between two points nothing better was found."""
    where = [(x(point.metrics[cost]), y(point.metrics["psnr_y_db"])) for point in front]
    path = f"M{where[0][0]} {where[0][1]}" + "".join(f"H{px}V{py}" for px, py in where[1:])
    return f'<path class="stairs" d="{path}"/>'


def _dot(point: Finished, cost: str, x: Axis, y: Axis, kind: str) -> str:
    radius = 3.5 if kind == "front" else 2.5
    px, py = x(point.metrics[cost]), y(point.metrics["psnr_y_db"])
    return f'<circle class="{kind}" data-n="{point.number}" cx="{px}" cy="{py}" r="{radius}"/>'


def _uniform(point: Finished, cost: str, x: Axis, y: Axis) -> str:
    px, py = x(point.metrics[cost]), y(point.metrics["psnr_y_db"])
    name = html.escape(point.origin.split()[-1].upper())
    return (
        f'<rect class="uniform" data-n="{point.number}" x="{px - 4.5:.1f}" y="{py - 4.5:.1f}" '
        'width="9" height="9" rx="1.5"/>'
        f'<text class="name uniform-name" x="{px + 8:.1f}" y="{py + 13:.1f}">{name}</text>'
    )


def _winner(point: Finished, cost: str, x: Axis, y: Axis) -> str:
    px, py = x(point.metrics[cost]), y(point.metrics["psnr_y_db"])
    return (
        f'<circle class="winner" data-n="{point.number}" cx="{px}" cy="{py}" r="8"/>'
        f'<text class="winner-name end" x="{px - 12:.1f}" y="{py - 6:.1f}">winner</text>'
    )
