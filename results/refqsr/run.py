"""Per-patch bits against whole images: BitOPs at equal PSNR, RefER and its controls, latency and seams.

    python results/refqsr/run.py [--part PART] [--network NAME] [--iterations N] [--runs runs/refqsr]

needs ../shared/data. `curves` needs no training: uniform and searched allocations for whole images, and two of them by
edges, by clusters and by an oracle. `seams` compares pictures at the borders of patches. `trained` trains the low width
with RefER, with random references and without. `latency` compiles and times artefacts, alone and on a quiet machine.
Parts of a network that are done are kept in the folder of runs; the page is written from those that are there:
table.json and README.md here.
"""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curves import curves
from latency import latency
from page import page
from rich.console import Console
from seams import seams
from subjects import NETWORKS, Subject
from trained import trained

from qsearch.data import shared_data
from qsearch.files import read_json, write_atomic, write_json
from qsearch.host import detect_host

HERE = Path(__file__).parent
ITERATIONS = 300
PARTS = ("curves", "seams", "trained", "latency")


def main() -> None:
    """Make what is asked for and not yet there, then the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--network", choices=list(NETWORKS))
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    parser.add_argument("--runs", type=Path, default=Path("runs/refqsr"))
    parser.add_argument("--limit", type=int, help="images of every set, for a trial; writes no page")
    given = parser.parse_args()
    if shared_data() is None:
        raise SystemExit("the benchmark data folder ../shared/data is not beside this checkout")
    console = Console(stderr=True)
    parts: dict[str, Callable[[Subject], Any]] = {
        "curves": lambda subject: {"sets": curves(subject, console)},
        "seams": seams,
        "trained": lambda subject: trained(subject, given.iterations, console),
        "latency": lambda subject: latency(subject, given.iterations, console),
    }
    for name in [given.network] if given.network else NETWORKS:
        subject = Subject(name, given.runs, given.limit)
        for part in [given.part] if given.part else parts:
            file = subject.folder / f"{part}.json"
            if not file.is_file():
                write_json(file, parts[part](subject))
                print(name, part, "done", flush=True)
    if given.limit is None:
        _write(given.runs)


def _write(runs: Path) -> None:
    """The page of everything that is there."""
    found = {
        name: {part: read_json(file) for part in PARTS
               if (file := runs / name / f"{part}.json").is_file()}
        for name in NETWORKS
    }  # fmt: skip
    content = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "cpu": detect_host().cpu, "networks": found}
    write_json(HERE / "table.json", content)
    write_atomic(HERE / "README.md", page(content))


if __name__ == "__main__":
    main()
