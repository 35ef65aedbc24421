"""Every processor family gives the same bytes: three networks, three allocations, all images of Set5.

    python results/targets/run.py [--networks rnet9_x4.pt,…] [--families host,…]

needs ../shared/data, and qemu-user for the ARM families. Each artefact is built as for its target and run here, on this
processor or under emulation of the target's; every byte of every output is compared with the integer reference. OpenCL
runs on what the machine has (PoCL counts as a device), and for a phone's GPU on PoCL for arm64 under emulation, which
`python -m tests.compile.pocl_arm64` fetches. Emulation checks bytes and times nothing. What was done is kept
in table.json as it goes, and a second run of the command continues; README.md is made from it.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.fx import GraphModule

from qsearch.allocation import Allocation, SiteAllocation, uniform
from qsearch.compile.artefact import build_artefact
from qsearch.compile.emulation import CannotRunError
from qsearch.compile.manifest import read_manifest
from qsearch.compile.run_artefact import run_binary
from qsearch.data import shared_data
from qsearch.errors import QsearchError
from qsearch.files import write_atomic, write_json
from qsearch.host import detect_host
from qsearch.images import Pair, read_lr_images, read_pairs
from qsearch.integer.storage import run_program
from qsearch.measure.modelled import choice_for
from qsearch.models import load
from qsearch.network import CalibratedNetwork
from qsearch.reach import EmulatedReach
from qsearch.target import Target, load_target

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))
from tests.compile import pocl_arm64  # noqa: E402

NETWORKS = ("rnet9_x4.pt", "abpn_x3_fp32.pt", "srresnet_bn8_x4.pt")
# Weight and input bits of the convolutions in turn; the first and the last have 8.
MIXED = ((4, 4), (4, 5), (5, 4), (4, 4), (6, 6), (4, 4), (3, 5), (4, 4))
LIMIT_BYTES = 90_000

PAGE = """# Every processor family, byte for byte

Made by `python results/targets/run.py` on {date} ({cpu}). Images: the {images} low-resolution images of Set5. *Bytes*
is the number of output bytes of all images that differ from the integer reference. `W8A8` and `W4A4 mixed` have
uniform quantizers (the latter 3 to 6 bits, first and last layer 8); `piecewise` has piecewise 4-bit activations.
Forms are those that the target's measurement or cycle model picks, so that low bits run their Winograd and 16-bit
kernels. *Executable* is a static one without its parameters{limit}.

| family | target | run by | network | allocation | forms | bytes | executable, kB | parameters, kB |
|---|---|---|---|---|---|---|---|---|
{rows}

{summary}
"""


@dataclass(frozen=True)
class Family:
    """An instruction set, and the target file whose device has it as its best."""

    isa: str
    target: str
    forced: bool = False
    """Whether the target has a better one that is not to be used."""
    networks: tuple[str, ...] = NETWORKS

    @property
    def key(self) -> str:
        """Names its rows."""
        return f"{self.isa} on arm64" if self.emulates_gpu else self.isa

    @property
    def emulates_gpu(self) -> bool:
        """Whether OpenCL is to run under emulation."""
        return self.isa == "opencl" and self.target != "opencl"

    def load(self) -> Target:
        """The target, with the instruction set of this family."""
        target = load_target(self.target)
        return target.model_copy(update={"wanted_isa": self.isa}) if self.forced else target


FAMILIES = (
    Family("avx512_popcnt", "host"),
    Family("avx512_vnni", "host", forced=True),
    Family("avx_vnni", "intel-n100"),
    Family("avx2", "x86-64-v3"),
    Family("generic", "x86-64-v3", forced=True),
    Family("arm_i8mm", "cortex-x2"),
    Family("arm_dotprod", "raspberry-pi-5"),
    Family("arm_neon", "raspberry-pi-3"),
    Family("armv7_neon", "raspberry-pi-2"),
    Family("portable_c", "raspberry-pi-4", forced=True),
    Family("opencl", "opencl"),
    Family("opencl", "mali-g57", networks=("abpn_x3_fp32.pt",)),  # an emulated OpenCL compiler takes its time
)


def allocations(network: CalibratedNetwork) -> dict[str, Allocation]:
    """The three allocations of a network."""
    eight = uniform(network.sites, 8, 8)
    weights = [site.name for site in network.sites if site.kind == "weight" and len(site.choices) > 1][1:-1]
    mixed, pieces = {}, {}
    for index, name in enumerate(weights):
        source = name.replace(".weight", ".input")
        mixed[name], mixed[source] = MIXED[index % len(MIXED)]
        pieces[name] = SiteAllocation(bits=4)
        pieces[source] = SiteAllocation(bits=4, quantizer="piecewise")
    searched = {site.name for site in network.sites if len(site.choices) > 1}
    return {
        "W8A8": eight,
        "W4A4 mixed": eight.replace({name: bits for name, bits in mixed.items() if name in searched}),
        "piecewise": Allocation(sites={**eight.sites, **{n: s for n, s in pieces.items() if n in searched}}),
    }


def main() -> None:
    """Check every family that was not checked yet, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--families", default=",".join(family.key for family in FAMILIES))
    chosen = parser.parse_args()
    data = shared_data()
    if data is None:
        raise SystemExit("this result needs ../shared/data")
    rows = _read_rows()
    for name in chosen.networks.split(","):
        model = load(data / "weights" / name)
        network = CalibratedNetwork.make(model, read_lr_images(data / "calibration", 16))
        pairs = read_pairs(data / "benchmarks" / "Set5" / f"x{model.upscale}", model.upscale)
        for label, allocation in allocations(network).items():
            program = network.program(allocation)
            expected: list[np.ndarray] = []
            for family in FAMILIES:
                key = f"{family.key}/{model.name}/{label}"
                if name not in family.networks or family.key not in chosen.families.split(",") or key in rows:
                    continue
                expected = expected or [reference(program, pair.lr) for pair in pairs]
                row = check(family, program, allocation, pairs, expected)
                rows[key] = {"isa": family.key, "target": family.target, "network": model.name,
                             "allocation": label, "images": len(pairs), **row}  # fmt: skip
                print(key, row, flush=True)
                write_json(HERE / "table.json", _document(rows))
    write_page(rows)


def reference(program: GraphModule, image: np.ndarray) -> np.ndarray:
    """The integer reference's output for an image."""
    output = run_program(program, torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
    return output[0].permute(1, 2, 0).contiguous().numpy()


def check(
    family: Family, program: GraphModule, allocation: Allocation, pairs: list[Pair], expected: list[np.ndarray]
) -> dict[str, Any]:
    """Build the artefact, run it on all images, and count the bytes that differ."""
    if family.emulates_gpu:
        if not pocl_arm64.folder().is_dir():
            return {"skipped": "PoCL for arm64 is not there: python -m tests.compile.pocl_arm64 fetches it"}
        with patch.dict(os.environ, pocl_arm64.environment()):
            return _check(family.load(), program, allocation, pairs, expected)
    return _check(family.load(), program, allocation, pairs, expected)


def _check(
    target: Target, program: GraphModule, allocation: Allocation, pairs: list[Pair], expected: list[np.ndarray]
) -> dict[str, Any]:
    cpu = target.reach.cpu if isinstance(target.reach, EmulatedReach) else "max"
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            folder = build_artefact(
                program, Path(temporary) / "artefact", target, name="network", allocation=allocation,
                choose=choice_for(target),
            )  # fmt: skip
            manifest = read_manifest(folder)
            compile_s = time.perf_counter() - started
            if not manifest["verified"]["ok"]:
                return {"skipped": manifest["verified"]["reason"]}
            found = [run_binary(folder / "network", pair.lr, None, None, cpu) for pair in pairs]
        except CannotRunError as error:
            return {"skipped": str(error).replace(temporary, "")}
        parameters = (folder / "params.bin").stat().st_size
        executable = (folder / "network").stat().st_size - parameters
    different = sum(int((a != b).sum()) if a.shape == b.shape else b.size for a, b in zip(found, expected, strict=True))
    forms = sorted(set(manifest["algorithms"].values()))
    return {"different_bytes": different, "bytes": sum(image.size for image in expected), "forms": forms,
            "run_by": manifest["verified"]["by"], "executable_bytes": executable, "parameter_bytes": parameters,
            "compile_s": round(compile_s, 1)}  # fmt: skip


def _read_rows() -> dict[str, Any]:
    path = HERE / "table.json"
    found: dict[str, Any] = json.loads(path.read_text())["rows"] if path.is_file() else {}
    return {key: row for key, row in found.items() if "skipped" not in row}


def _document(rows: dict[str, Any]) -> dict[str, Any]:
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    return {"date": date, "cpu": detect_host().cpu, "rows": rows}


def write_page(rows: dict[str, Any]) -> None:
    """README.md from the rows."""
    if not rows:
        raise QsearchError("nothing was checked: choose networks and families that exist")
    lines, done = [], [row for row in rows.values() if "skipped" not in row]
    order = [family.key for family in FAMILIES]
    for row in sorted(rows.values(), key=lambda row: (order.index(row["isa"]), row["network"])):
        head = f"| {row['isa']} | {row['target']} |"
        if "skipped" in row:
            lines.append(f"{head} not run | {row['network']} | {row['allocation']} | {row['skipped']} | – | – | – |")
            continue
        sizes = f"{row['executable_bytes'] / 1000:.0f} | {row['parameter_bytes'] / 1000:.0f}"
        lines.append(
            f"{head} {row['run_by']} | {row['network']} | {row['allocation']} | {', '.join(row['forms'])} | "
            f"{row['different_bytes']} of {row['bytes']} | {sizes} |"
        )
    wrong = sum(row["different_bytes"] for row in done)
    largest = max((row["executable_bytes"] for row in done if not row["isa"].startswith("opencl")), default=0)
    total = sum(row["bytes"] for row in done)
    summary = (
        f"{len(done)} artefacts, {total} bytes compared, **{wrong} differ**. The largest static executable has "
        f"{largest / 1000:.0f} kB without parameters (wanted: at most {LIMIT_BYTES / 1000:.0f})."
    )
    page = PAGE.format(
        date=datetime.now(UTC).strftime("%Y-%m-%d"), cpu=detect_host().cpu, images=done[0]["images"] if done else 0,
        limit=f"; wanted: at most {LIMIT_BYTES / 1000:.0f} kB", rows="\n".join(lines), summary=summary,
    )  # fmt: skip
    write_atomic(HERE / "README.md", page)


if __name__ == "__main__":
    main()
