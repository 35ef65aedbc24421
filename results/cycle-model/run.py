"""The cycle model: checked against measurement on this machine, then asked about boards that are not there.

    python results/cycle-model/run.py [--core zen5]

The first part measures convolutions of many shapes and all their forms on one thread, for every instruction set that
this machine runs, and compares the order and the ratios with the model of `--core`: by counted instructions and the
core's rates, and where llvm-mca knows a related core (256-bit vectors and narrower are alike on Zen 4 and Zen 5), by
llvm-mca. The second part models the forms of two convolutions on ARM cores, for which nothing is measured. Run it on a
quiet machine; it writes table.json and README.md here.
"""

import argparse
import json
import os
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qsearch.compile import kernels
from qsearch.compile.specs import ConvSpec, OutSpec, SkipSpec
from qsearch.files import write_atomic, write_json
from qsearch.host import detect_host
from qsearch.measure.cycle_check import Agreement, Checked, Layer, agreement, check, random_convolution
from qsearch.measure.cycles import mca
from qsearch.measure.cycles.cores import CORES, Core, core_of
from qsearch.measure.modelled import cycles_of
from qsearch.target import Target, load_target

HERE = Path(__file__).parent
SIZE, CHECK_SIZE = (180, 320), (48, 320)
BITS = ((8, 8), (7, 7), (6, 6), (5, 5), (4, 4), (3, 3), (2, 2), (1, 2), (1, 1))
TARGETS = ("cortex-a53", "cortex-a72", "cortex-a76", "raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5")
# Whose scheduling model stands for the core's where LLVM has none; not for vectors of 512 bits.
RELATED = {"zen5": "znver4"}
WIDE = ("avx512_popcnt", "avx512_vnni")
BODY = ConvSpec((3, 3), 1, (1, 1), 64, 1, 64, (OutSpec(64, 1),))
UPSAMPLER = ConvSpec((3, 3), 1, (1, 1), 64, 1, 256, (OutSpec(64, 1),), shuffle=2)

PAGE = """# The cycle model

Made by `python results/cycle-model/run.py` on {date}: {cpu}, load average {load:.2f}; {tool}.

## Checked against this machine

{count} pairs of a kernel and a model, one thread, an input of {columns}×{rows} pixels, the shortest of interleaved
rounds against the model of `{core}`: {shapes}. Spearman's rank correlation is 1 for the same order. The ratio is
measured over modelled time; the spread is its 90 % quantile over its 10 % quantile.

| instruction set | model | kernels | rank correlation | median ratio | spread |
|---|---|---|---|---|---|
{checks}

{low_bits}

## Modelled, not measured

Time of one convolution with its requantization, {size} pixels, one thread: every figure of these tables is modelled
from machine code, none is measured. `fastest` is the form that the model picks; the factor is over W8A8.

{tables}
"""


def layers() -> list[Layer]:
    """Shapes and bits that networks have."""
    found = [Layer(BODY, bits, bits) for bits in (8, 6, 5, 4)]
    found += [Layer(UPSAMPLER, bits, bits) for bits in (8, 6, 4)]
    small = replace(BODY, in_channels=32, out_channels=32, outputs=(OutSpec(32, 1),))
    found += [Layer(small, bits, bits) for bits in (8, 4)]
    others = (
        replace(BODY, skips=(SkipSpec(64, 1),)),
        replace(BODY, prelu=True),
        replace(BODY, in_channels=28, out_channels=28, outputs=(OutSpec(28, 1),)),
        replace(BODY, in_channels=16, out_channels=16, outputs=(OutSpec(16, 1),)),
        replace(BODY, in_channels=4),
        replace(BODY, kernel=(1, 1), padding=(0, 0), in_border=0, outputs=(OutSpec(64, 0),)),
        replace(BODY, kernel=(1, 1), padding=(0, 0), in_border=0, in_channels=256, outputs=(OutSpec(64, 0),)),
        replace(BODY, kernel=(5, 5), padding=(2, 2), in_border=2, outputs=(OutSpec(64, 2),)),
        replace(BODY, out_channels=3, outputs=(OutSpec(3, 0),)),
        replace(BODY, kernel=(9, 9), padding=(4, 4), in_border=4, out_channels=3, outputs=(OutSpec(3, 0),)),
    )
    return found + [Layer(spec, 8, 8) for spec in others]


def checks(core: Core) -> list[Checked]:
    """Every kernel of every instruction set of this machine; twice where llvm-mca can stand in, too."""
    found = []
    for isa in (isa for isa in kernels.host_isas() if isa in kernels.ISAS):
        rows = check(layers(), isa, core, CHECK_SIZE)
        found += rows
        related = replace(core, mca_cpu=RELATED.get(core.name, "none"))
        triple = kernels.host_target(isa)["mtriple"]
        if core.mca_cpu == "none" and isa not in WIDE and mca.knows(triple, related.mca_cpu):
            for row in rows:
                cycles = cycles_of(row.spec, isa, detect_host().arch, related, CHECK_SIZE)
                modelled_ms = cycles.cycles / related.clock_ghz / 1e6
                found.append(replace(row, latency_modelled_ms=modelled_ms, method=cycles.method))
    return found


def table(target: Target, spec: ConvSpec) -> list[dict[str, Any]]:
    """Every pair of bits: the forms that are exact and their modelled time."""
    core = core_of(target)
    known: dict[ConvSpec, tuple[float, str]] = {}
    rows: list[dict[str, Any]] = []
    for weight_bits, input_bits in BITS:
        forms = kernels.candidates(spec, target.isa, random_convolution(spec, weight_bits, input_bits))
        for form in forms:
            if form not in known:
                cycles = cycles_of(form, target.isa, target.arch, core, SIZE)
                known[form] = cycles.cycles / core.clock_ghz / 1e6, cycles.method
        times = {form.algorithm: known[form][0] for form in forms}
        fastest = min(times, key=lambda form: times[form])
        rows.append(
            {
                "weight_bits": weight_bits,
                "input_bits": input_bits,
                "fastest": fastest,
                "latency_modelled_ms": times[fastest],
                "factor_over_w8a8": rows[0]["latency_modelled_ms"] / times[fastest] if rows else 1.0,
                "forms_modelled_ms": times,
                "method": known[next(form for form in forms if form.algorithm == fastest)][1],
            }
        )
    return rows


def in_words(target: Target, name: str, rows: list[dict[str, Any]]) -> str:
    """One table of the page."""
    core = core_of(target)
    head = f"### {target.name}, {name}: modelled at {core.clock_ghz:g} GHz, {target.isa} kernels, {rows[0]['method']}"
    lines = [head, "", "| bits | fastest | latency_modelled_ms | factor | other forms |", "|---|---|---|---|---|"]
    for row in rows:
        times = sorted(row["forms_modelled_ms"].items(), key=lambda item: item[1])
        others = ", ".join(f"{form} {time:.1f}" for form, time in times[1:5])
        lines.append(
            f"| W{row['weight_bits']}A{row['input_bits']} | {row['fastest']} | {row['latency_modelled_ms']:.1f} "
            f"| {row['factor_over_w8a8']:.2f} | {others} |"
        )
    return "\n".join(lines)


def groups(checked: list[Checked]) -> dict[tuple[str, str], list[Checked]]:
    """The kernels by instruction set and method, and all of one method together."""
    found: dict[tuple[str, str], list[Checked]] = {}
    for row in checked:
        method = row.method.split(",")[0]
        found.setdefault((row.isa, method), []).append(row)
    counted = [row for row in checked if row.method.startswith("instruction counts")]
    if counted:
        found["all together", counted[0].method] = counted
    return found


def main() -> None:
    """Measure, model and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--core", default="zen5", choices=sorted(CORES))
    core = CORES[parser.parse_args().core]
    load = os.getloadavg()[0]
    checked = checks(core)
    agreements = {key: agreement(rows) for key, rows in groups(checked).items()}
    shapes = {"64→64": BODY, "64→256 shuffle 2": UPSAMPLER}
    targets = [load_target(name) for name in TARGETS]
    tables = {f"{t.name}, {name}": table(t, spec) for t in targets for name, spec in shapes.items()}
    tool = mca.find_tool()
    conditions = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": detect_host().cpu,
        "load_average": load,
        "core": core.name,
        "llvm_mca": tool[1] if tool else None,
        "check_size": CHECK_SIZE,
        "size": SIZE,
    }
    pairs = [
        {"kernel": f"{r.label}, {r.isa}", "latency_modelled_ms": r.latency_modelled_ms, "latency_ms": r.latency_ms,
         "method": r.method} for r in checked
    ]  # fmt: skip
    found = {f"{isa}, {method}": asdict(row) for (isa, method), row in agreements.items()}
    content = {"conditions": conditions, "agreement": found, "checks": pairs, "modelled": tables}
    write_json(HERE / "table.json", content)
    page = PAGE.format(
        **{key: conditions[key] for key in ("date", "cpu", "core")}, load=load,
        tool=f"llvm-mca {tool[1]}" if tool else "llvm-mca is not installed: instruction counts and rates only",
        count=len(checked), rows=CHECK_SIZE[0], columns=CHECK_SIZE[1], size=f"{SIZE[1]}×{SIZE[0]}",
        shapes=", ".join(dict.fromkeys(layer.label.rpartition(" ")[0] for layer in layers())),
        checks="\n".join(check_line(*key, found) for key, found in agreements.items()),
        low_bits=low_bits(checked),
        tables="\n\n".join(in_words(t, name, tables[f"{t.name}, {name}"]) for t in targets for name in shapes),
    )  # fmt: skip
    write_atomic(HERE / "README.md", page)
    print(json.dumps({f"{isa}, {method}": round(a.rank_correlation, 3) for (isa, method), a in agreements.items()}))


def check_line(isa: str, method: str, found: Agreement) -> str:
    """One line of the first table."""
    return (
        f"| {isa} | {method} | {found.kernels} | {found.rank_correlation:.3f} "
        f"| {found.median_ratio:.2f} | {found.spread:.2f} |"
    )


def low_bits(checked: list[Checked]) -> str:
    """How much faster than direct every form of the 64→64 convolution is, measured and modelled."""
    best = kernels.host_isas()[0]
    rows = [row for row in checked if row.isa == best and row.spec.shuffle == 1 and row.spec.in_channels == 64]
    rows = [row for row in rows if replace(row.spec, algorithm="") == replace(BODY, algorithm="")]
    direct = next((row for row in rows if row.spec.algorithm.startswith("direct")), None)
    if direct is None:
        return ""
    lines = [
        f"64→64 with {best}, factor over {direct.spec.algorithm}:",
        "",
        "| form | measured | modelled |",
        "|---|---|---|",
    ]
    lines += [
        f"| {row.spec.algorithm} | {direct.latency_ms / row.latency_ms:.2f} "
        f"| {direct.latency_modelled_ms / row.latency_modelled_ms:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
