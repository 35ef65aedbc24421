"""Decisions can be seen over the picture, and seams can be measured."""

import numpy as np

from qsearch.images import Box
from qsearch.patches import Layout
from qsearch.patches.draw import LEGEND_PX, draw_bits, legend
from qsearch.patches.patched import PatchReport, PatchResult
from qsearch.patches.seams import seam_excess
from tests.small_networks import random_images

GREY = np.full((64, 96, 3), 100, np.uint8)


def result(clustered: bool) -> PatchResult:
    """Two patches of upscale 2: a reference, and a query of its cluster."""
    reports = (
        PatchReport(Box(0, 0, 32, 24), 0, "8", 0 if clustered else None, 0 if clustered else None),
        PatchReport(Box(0, 24, 32, 48), 1, "4", 0 if clustered else None, 0 if clustered else None),
    )
    return PatchResult(GREY, reports, 3 * 10**9, 10**6, 1.0)


def test_clusters_references_and_bits_are_drawn() -> None:
    drawn = draw_bits(result(clustered=True))
    assert drawn.shape == (64 + LEGEND_PX, 96, 3)
    assert drawn.dtype == np.uint8
    assert (drawn[0, :48] == 255).all(), "the reference has a white frame"
    assert not (drawn[0, 48:] == 255).all(), "the query has none"
    assert np.array_equal(drawn[4, 4], drawn[4, 90]), "one cluster, one colour"
    assert not np.array_equal(drawn[4, 4], GREY[0, 0])
    assert (drawn[20:44, 60:84] == 255).all(-1).any(), "the bits are written into the patch"
    assert (drawn[64:] < 128).any(), "the legend is written below"
    assert np.array_equal(GREY, np.full((64, 96, 3), 100)), "the result itself is not touched"


def test_without_clusters_levels_have_colours() -> None:
    drawn = draw_bits(result(clustered=False))
    assert not np.array_equal(drawn[4, 4], drawn[4, 90])


def test_the_legend_counts() -> None:
    text = legend(result(clustered=True))
    assert (
        text
        == "8 bits: 1 (50 %) · 4 bits: 1 (50 %) · 1 clusters, 1 references · 3 GBitOPs, 1.00 pixels computed for each"
    )
    assert "clusters" not in legend(result(clustered=False))


def test_seams_are_measured() -> None:
    patches = Layout(16).split(40, 48)
    whole = random_images(1, 80, 96)[0] // 2
    assert seam_excess(whole, whole, patches, 2) == 0
    stepped = whole.copy()
    stepped[:, 32:64] += 60
    assert seam_excess(stepped, whole, patches, 2) > 0.02
    assert seam_excess(whole, whole, Layout(64).split(40, 48), 2) == 0, "one patch has no border"
    assert seam_excess(GREY, GREY, patches, 2) == 0
