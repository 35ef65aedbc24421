"""A network that only exists as arithmetic: 8 convolutions whose noise is known, with interactions.

History as a program it searches `folder`, slowly, and writes a line per measured allocation, for tests that kill it.
"""

import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

from qsearch.allocation import Allocation, Site
from qsearch.search import Budget, parse_objectives, run_search

CONVS = [f"conv{k}" for k in range(8)]
MACS = dict(zip(CONVS, (1, 4, 4, 4, 4, 4, 16, 8), strict=True))
SITES = [
    Site(name=f"{conv}.{kind}", kind=kind, choices=(8,) if (conv, kind) == ("conv0", "input") else tuple(range(2, 9)))
    for conv in CONVS
    for kind in ("weight", "input")
] + [Site(name="conv3.skip", kind="skip", choices=(4, 6, 8))]
OBJECTIVES = parse_objectives("psnr_y_db,bitops")
_LOUDNESS = dict(
    zip((site.name for site in SITES), np.random.default_rng(7).lognormal(0, 2.0, len(SITES)), strict=True)
)


def measure(allocation: Allocation) -> dict[str, float]:
    """PSNR of a picture with an error of 50 grey levels² plus the sites' noise, a tenth of which interacts."""
    noise = [_LOUDNESS[name] * 500 * 4.0**-site.bits for name, site in allocation.sites.items()]
    error = 50 + sum(noise) + 0.1 * sum(np.sqrt(a * b) for a, b in pairwise(noise))
    return {"psnr_y_db": float(10 * np.log10(255**2 / error))}


def cost(allocation: Allocation) -> dict[str, float]:
    """BitOPs and weight bytes in the shape of the real ones."""
    bits = {name: site.bits for name, site in allocation.sites.items()}
    return {
        "bitops": float(sum(macs * bits[f"{conv}.weight"] * bits[f"{conv}.input"] for conv, macs in MACS.items())),
        "weight_bytes": float(sum(100 * macs * bits[f"{conv}.weight"] for conv, macs in MACS.items())),
    }


def main(folder: Path, log: Path, trials: int) -> None:
    """Search with 20 ms per measurement."""

    def slowly(allocation: Allocation) -> dict[str, float]:
        with log.open("a") as file:
            file.write(" ".join(str(site.bits) for site in allocation.sites.values()) + "\n")
        time.sleep(0.02)
        return measure(allocation)

    run_search(folder, SITES, slowly, cost, OBJECTIVES, Budget(trials=trials), quality=measure)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
