"""The front and the crops as files of their own, for a README or a paper."""

import io
import re
from pathlib import Path

from PIL import Image, ImageDraw

from qsearch.errors import QsearchError
from qsearch.files import write_atomic
from qsearch.report.data import Crop, FrontData, ReportData
from qsearch.report.front_chart import HEIGHT, WIDTH, front_chart

ZOOM, GAP, CAPTION = 3, 8, 34
STYLE = """
svg { background: #ffffff } text { font: 11px system-ui, sans-serif; fill: #646b75 } .name { fill: #1d2126 }
.mid { text-anchor: middle } .end { text-anchor: end } .grid { stroke: #eceef0 }
.reference { stroke: #646b75; stroke-dasharray: 4 4 } .stairs { fill: none; stroke: #1f6feb; stroke-width: 1.5 }
.trial { fill: #b9c0c9 } .front { fill: #1f6feb } .uniform { fill: #ffffff; stroke: #c4620a; stroke-width: 2 }
.uniform-name { fill: #c4620a } .winner { fill: none; stroke: #c21f5b; stroke-width: 2.5 }
.winner-name { fill: #c21f5b }
"""


def save_front(path: Path | str, data: ReportData | FrontData, cost: str) -> None:
    """Write the front of PSNR against `cost` as an SVG file."""
    figure = re.search(r"<svg[^>]*>(.*)</svg>", front_chart(data, cost), re.DOTALL)
    if figure is None:
        raise QsearchError(f"there is no front against {cost} to draw")
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">'
    write_atomic(path, f"{opening}<style>{STYLE}</style>{figure.group(1)}</svg>\n")


def save_crop(path: Path | str, crop: Crop) -> None:
    """Write one crop's pictures side by side as a PNG, enlarged without smoothing, captions below."""
    side = max(max(picture.pixels.shape[:2]) for picture in crop.pictures) * ZOOM
    sheet = Image.new("RGB", (len(crop.pictures) * (side + GAP) - GAP, side + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    for index, picture in enumerate(crop.pictures):
        left = index * (side + GAP)
        height, width = picture.pixels.shape[:2]
        image = Image.fromarray(picture.pixels).resize((width * ZOOM, height * ZOOM), Image.Resampling.NEAREST)
        sheet.paste(image, (left, 0))
        caption = f"{picture.label}  {picture.note}".strip()
        draw.text((left + 2, side + 8), caption, fill="black", font_size=16)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_atomic(path, buffer.getvalue())
