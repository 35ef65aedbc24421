"""The picture of `run.py`: speed-ups by the bits of weights and activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qsearch.files import write_atomic

CELL_WIDTH, CELL_HEIGHT, LEFT, TOP, GAP = 52, 34, 48, 52, 40
SLOW, FAST = (238, 241, 245), (29, 111, 184)
MOST = 4.0
"""The speed-up of the darkest colour."""
STYLE = "svg { background: #ffffff } text { font: 11px system-ui, sans-serif; fill: #1d2126 } .light { fill: #ffffff }"


@dataclass(frozen=True)
class Panel:
    """One layer: its cells with `weight_bits`, `bits`, `form` and `speedup`."""

    title: str
    bits: Sequence[int]
    cells: Sequence[dict[str, Any]]

    @property
    def width(self) -> int:
        """Pixels."""
        return LEFT + CELL_WIDTH * len(self.bits)


def save_heatmap(path: Path, panels: Sequence[Panel]) -> None:
    """Writes all panels side by side."""
    parts, x = [], 0
    for panel in panels:
        parts.append(f'<g transform="translate({x} 0)">{_panel(panel)}</g>')
        x += panel.width + GAP
    height = TOP + CELL_HEIGHT * max(len(panel.bits) for panel in panels) + 12
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {x - GAP + 8} {height}" width="{x - GAP + 8}">'
    write_atomic(path, f"{opening}<style>{STYLE}</style>{''.join(parts)}</svg>\n")


def _panel(panel: Panel) -> str:
    parts = [_text(LEFT, 16, f"{panel.title}: times faster than the direct kernel", "start")]
    for column, bits in enumerate(panel.bits):
        parts.append(_text(LEFT + CELL_WIDTH * (column + 0.5), TOP - 8, f"A{bits}"))
        parts.append(_text(LEFT - 18, TOP + CELL_HEIGHT * (column + 0.5) + 4, f"W{bits}"))
    for cell in panel.cells:
        x = LEFT + CELL_WIDTH * panel.bits.index(cell["bits"])
        y = TOP + CELL_HEIGHT * panel.bits.index(cell["weight_bits"])
        parts += _cell(x, y, cell)
    return "".join(parts)


def _cell(x: float, y: float, cell: dict[str, Any]) -> list[str]:
    share = min(max((cell["speedup"] - 1) / (MOST - 1), 0), 1)
    colour = "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(SLOW, FAST, strict=True))
    faster, light = cell["form"] != "direct", share > 0.55
    size = f'width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}"'
    lines = (f"{cell['speedup']:.2f}", cell["form"].removeprefix("winograd:")) if faster else ("smaller", "")
    if cell["bits"] == cell["weight_bits"] == 8:
        lines = ("1.00", "direct")
    centre = x + CELL_WIDTH / 2
    return [
        f'<rect x="{x}" y="{y}" {size} rx="3" fill="{colour}"/>',
        _text(centre, y + (14 if lines[1] else 20), lines[0], light=light),
        _text(centre, y + 26, lines[1], light=light) if lines[1] else "",
    ]


def _text(x: float, y: float, text: str, anchor: str = "middle", light: bool = False) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{_class(light)}>{text}</text>'


def _class(light: bool) -> str:
    return ' class="light"' if light else ""
