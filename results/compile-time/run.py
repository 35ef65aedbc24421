"""How long compiling takes: whole networks, cold and with warm caches, for this machine and for a foreign one.

    python results/compile-time/run.py [--rounds N]

Every sample is a process of its own, which loads an integer program, imports the compiler, and then times one of two
things: `HostNetwork`, the kernels of a network loaded into the process, or `build_artefact`, the whole folder with its
golden images checked (under emulation where the target is foreign). Cold, the cache of kernels and of measured choices
is new and empty; warm, the process before it filled it. zig's own cache of the C library is warm for both: it is filled
once per machine and target, whatever the network. Rounds are interleaved; seconds are medians. The networks have random
weights of the published shapes. Run it on a quiet machine; it writes table.json and README.md here.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from qsearch import samples
from qsearch.allocation import uniform
from qsearch.compile import link, tuning
from qsearch.compile.artefact import build_artefact
from qsearch.compile.host import HostNetwork
from qsearch.errors import QsearchError
from qsearch.files import write_atomic, write_json
from qsearch.host import detect_host
from qsearch.integer.storage import load_program, save_program
from qsearch.models import build
from qsearch.network import CalibratedNetwork
from qsearch.target import load_target

HERE = Path(__file__).parent
NETWORKS = {"RNet ×4": "edsr_r9f64_x4", "EDSR-baseline ×4": "edsr_r16f64_x4", "SRResNet ×4": "srresnet_r8_x4"}
BITS = (8, 4)
FOREIGN = "raspberry-pi-5"
WHAT = (("network", "host"), ("artefact", "host"), ("artefact", FOREIGN))
ROUNDS = 3
COLD_LIMIT_S, WARM_LIMIT_S = 15.0, 2.0

PAGE = """# Time to compile a network

Made by `python results/compile-time/run.py` on {date}: {cpu}, {processors} processors, load average {load:.2f};
medians of {rounds} interleaved rounds, every sample a process of its own. *Loaded* is a `HostNetwork`, *artefact* the
whole folder with its golden images checked. Cold is an empty cache of kernels and choices, warm the one that the cold
process left; the C library of zig is built before. Importing Python's libraries takes {import_s:.1f} s, which is not
in the figures.

| network | bits | what | target | cold, s | warm, s |
|---|---|---|---|---|---|
{rows}

{summary}
"""


def sample(folder: Path, what: str, target_name: str) -> dict[str, float]:
    """Seconds of one compilation in this process."""
    program = load_program(folder)
    target = load_target(target_name)
    start = time.perf_counter()
    if what == "network":
        HostNetwork(program, choose=tuning.for_target(target))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            build_artefact(program, Path(temporary) / "artefact", target, name="network")
    return {"seconds": time.perf_counter() - start}


def in_process(folder: Path, what: str, target: str, cache: Path) -> tuple[float, float]:
    """Seconds of one compilation in a new process with `cache`, and of everything else that process did."""
    words = [sys.executable, str(Path(__file__).resolve()), "--sample", str(folder), what, target]
    start = time.perf_counter()
    done = subprocess.run(words, env={**os.environ, "XDG_CACHE_HOME": str(cache)}, capture_output=True, text=True)
    if done.returncode:
        raise QsearchError(f"compiling {folder.name} for {target} failed: {done.stderr.strip()[-300:]}")
    seconds = float(json.loads(done.stdout.splitlines()[-1])["seconds"])
    return seconds, time.perf_counter() - start - seconds


def write_programs(folder: Path) -> dict[tuple[str, int], Path]:
    """The integer programs of all networks and bits, on disk."""
    found = {}
    for title, configuration in NETWORKS.items():
        model = build(configuration)
        network = CalibratedNetwork.make(model, samples.calibration_images(model.upscale))
        for bits in BITS:
            place = folder / f"{configuration}-w{bits}a{bits}"
            place.mkdir()
            save_program(network.program(uniform(network.sites, bits, bits)), place)
            found[title, bits] = place
    return found


def measure(programs: dict[tuple[str, int], Path], rounds: int, work: Path) -> tuple[list[dict[str, Any]], float]:
    """One row per network, bits and kind of compilation; and the median seconds outside of compilations."""
    zig = _zig_cache(next(iter(programs.values())), work)
    keys = [(*key, *kind) for key in programs for kind in WHAT]
    samples_s: dict[Any, dict[str, list[float]]] = {key: {"cold": [], "warm": []} for key in keys}
    others = []
    for _ in range(rounds):
        for key in keys:
            title, bits, what, target = key
            cache = Path(tempfile.mkdtemp(dir=work))
            (cache / "qsearch").mkdir()
            (cache / "qsearch" / "zig").symlink_to(zig)
            for state in ("cold", "warm"):
                seconds, other = in_process(programs[title, bits], what, target, cache)
                samples_s[key][state].append(seconds)
                others.append(other)
            shutil.rmtree(cache)
            print(key, {state: round(found[-1], 2) for state, found in samples_s[key].items()}, flush=True)
    rows = [
        {"network": title, "bits": bits, "what": what, "target": target,
         **{f"{state}_s": median(found) for state, found in samples_s[title, bits, what, target].items()},
         "samples_s": samples_s[title, bits, what, target]}
        for title, bits, what, target in keys
    ]  # fmt: skip
    return rows, median(others)


def _zig_cache(program: Path, work: Path) -> Path:
    """A cache of zig that has the C library of every target."""
    cache = work / "zig-cache"
    for what, target in WHAT:
        if what == "artefact":
            in_process(program, what, target, cache)
    return cache / link.cache_folder().relative_to(link.cache_folder().parents[1])


def page(rows: list[dict[str, Any]], conditions: dict[str, Any]) -> str:
    """README.md."""
    named = {"network": "loaded", "artefact": "artefact"}
    lines = [
        f"| {row['network']} | W{row['bits']}A{row['bits']} | {named[row['what']]} | {row['target']} "
        f"| {row['cold_s']:.1f} | {row['warm_s']:.1f} |"
        for row in rows
    ]
    cold, warm = (max(row[key] for row in rows) for key in ("cold_s", "warm_s"))
    summary = (
        f"The slowest takes **{cold:.1f} s cold** (wanted: at most {COLD_LIMIT_S:.0f}) and **{warm:.1f} s warm** "
        f"(wanted: at most {WARM_LIMIT_S:.0f})."
    )
    return PAGE.format(**conditions, rows="\n".join(lines), summary=summary)


def main() -> None:
    """Measure, then write the page; or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--sample", nargs=3, metavar=("PROGRAM", "WHAT", "TARGET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.sample:
        folder, what, target = arguments.sample
        print(json.dumps(sample(Path(folder), what, target)))
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        rows, import_s = measure(write_programs(work), arguments.rounds, work)
    conditions = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "cpu": detect_host().cpu, "processors": os.cpu_count(),
        "load": load, "rounds": arguments.rounds, "import_s": import_s,
    }  # fmt: skip
    write_json(HERE / "table.json", {"conditions": conditions, "rows": rows})
    write_atomic(HERE / "README.md", page(rows, conditions))
    print(json.dumps({key: max(row[key] for row in rows) for key in ("cold_s", "warm_s")}))


if __name__ == "__main__":
    main()
