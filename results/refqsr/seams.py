"""Whether borders of patches show: differences across them against those elsewhere."""

from curves import layout_name
from subjects import LAYOUT, SEAMLESS, UPSCALE, Subject

from qsearch.compile.host import HostNetwork
from qsearch.patches import Constant, EdgeRule, Layout, levels_of, seam_excess
from qsearch.patches.execute import PatchNetwork

SEAM_LAYOUTS = (SEAMLESS, LAYOUT, Layout(48, 8), Layout(96, 8), Layout(96, 16))
DECIDED = {"6-5": True, "8-4": False}
"""Two widths, and whether edges count relative to their image."""
SAME = "8"


def seams(subject: Subject) -> dict[str, dict[str, float]]:
    """Seams on the photographs by layout: two widths, and 8 bits in every patch, which no decision causes."""
    network = subject.network
    whole = HostNetwork(levels_of(network, SAME)[0].program(network))
    pairs = subject.pairs("photographs")
    wholes = [whole.run(pair.lr) for pair in pairs]
    found: dict[str, dict[str, float]] = {}
    for layout in SEAM_LAYOUTS:
        rules = {
            bits: EdgeRule.calibrate(subject.images, layout, [0.5], relative) for bits, relative in DECIDED.items()
        }
        for bits, policy in (*rules.items(), (SAME, Constant())):
            patched = PatchNetwork(network, levels_of(network, bits), layout, policy)
            excess = [
                seam_excess(patched.run(pair.lr).image, result, layout.split(*pair.lr.shape[:2]), UPSCALE)
                for pair, result in zip(pairs, wholes, strict=True)
            ]
            found.setdefault(seam_name(layout), {})[bits] = sum(excess) / len(excess)
    return found


def seam_name(layout: Layout) -> str:
    """The key of a layout among seams."""
    return layout_name(layout) if layout.seamless else f"{layout.patch}, {layout.overlap}"
