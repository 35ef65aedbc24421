"""The decisions drawn over the upscaled picture: clusters as colours, references as frames, bits as numbers."""

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from qsearch.images import Box
from qsearch.patches.patched import PatchReport, PatchResult

TINT = 0.35
"""How much of a pixel is the colour of its patch."""
LEGEND_PX = 22
SMALLEST_LABEL_PX, LARGEST_LABEL_PX = 7, 28
FRAME = (255, 255, 255)
GOLDEN_TURN = 0.61803398875
"""Steps of hue that keep any number of colours apart."""


def draw_bits(result: PatchResult) -> NDArray[np.uint8]:
    """The upscaled image with every patch tinted and labelled, and a legend of 22 rows below; uint8 [H + 22, W, 3].

    A patch has the colour of its cluster, or of its level where nothing is clustered. Where there is room it shows the
    name of its level, and `R` (reference) or `Q` (query) with the number of its cluster; references have white frames.
    """
    upscale = result.image.shape[1] // max(report.box.right for report in result.patches)
    tinted = result.image.astype(np.float64)
    for report in result.patches:
        area = report.box.scaled(upscale).slices
        tinted[area] = (1 - TINT) * tinted[area] + TINT * np.array(_colour(report))
    height, width = result.image.shape[:2]
    sheet = Image.new("RGB", (width, height + LEGEND_PX), "white")
    sheet.paste(Image.fromarray(np.rint(tinted).astype(np.uint8)), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for number, report in enumerate(result.patches):
        _draw_patch(draw, report, report.box.scaled(upscale), report.reference == number)
    draw.text((4, height + 4), legend(result), fill="black", font_size=12)
    return np.array(sheet)


def legend(result: PatchResult) -> str:
    """One line: patches of every level, clusters and references, BitOPs, and the work of the overlap."""
    patches = result.patches
    counts = {report.bits: 0 for report in sorted(patches, key=lambda report: report.level)}
    for report in patches:
        counts[report.bits] += 1
    parts = [f"{bits} bits: {count} ({100 * count / len(patches):.0f} %)" for bits, count in counts.items()]
    clusters = {report.cluster for report in patches} - {None}
    if clusters:
        references = sum(report.reference == number for number, report in enumerate(patches))
        parts.append(f"{len(clusters)} clusters, {references} references")
    parts.append(f"{result.bitops / 1e9:.4g} GBitOPs, {result.overwork:.2f} pixels computed for each")
    return " · ".join(parts)


def _colour(report: PatchReport) -> tuple[int, int, int]:
    kind = report.level if report.cluster is None else report.cluster
    red, green, blue = colorsys.hsv_to_rgb((kind * GOLDEN_TURN) % 1.0, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_patch(draw: ImageDraw.ImageDraw, report: PatchReport, box: Box, reference: bool) -> None:
    side = min(box.bottom - box.top, box.right - box.left)
    corners = (box.left, box.top, box.right - 1, box.bottom - 1)
    if reference:
        draw.rectangle(corners, outline=FRAME, width=max(side // 48, 1))
    else:
        draw.rectangle(corners, outline=_colour(report))
    size = min(side // 3, LARGEST_LABEL_PX)
    if size < SMALLEST_LABEL_PX:
        return
    label = report.bits
    if report.cluster is not None:
        label += f" {'R' if reference else 'Q'}{report.cluster}"
    middle = ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    draw.text(middle, label, fill=FRAME, font_size=size, anchor="mm", stroke_width=1, stroke_fill=(0, 0, 0))
