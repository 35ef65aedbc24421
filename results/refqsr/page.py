"""README.md from what was measured."""

from collections.abc import Iterator
from typing import Any

from curves import (
    DROP_DB,
    FEW_SHARES,
    LAYOUTS,
    NEAR,
    PAIRS,
    USEFUL_DROP_DB,
    layout_name,
)
from seams import DECIDED, SAME, SEAM_LAYOUTS, seam_name
from subjects import CALIBRATION_IMAGES, CLASSES, LAYOUT, SEAMLESS, SET, SETS
from trained import CONTROLS, PATCHES, WIDTHS

from qsearch.patches import Layout

WANTED_SAVING, OVERHEAD, SEAM = 0.36, 0.15, 0.02
STAGES = ("decision", "gather", "refer", "merge", "bodies")
TITLES = {"rnet9": "rnet9 ×4", "srresnet": "SRResNet ×4", "carn_m": "CARN-M ×4"}

PAGE = """# Per-patch bits against whole images

Made by `python results/refqsr/run.py` on {date} ({cpu}). Integer networks on the compiled kernels, first and last layer
as the row's bits, skip operands 8 bits; calibrated on {calibration} DIV2K images. BitOPs count the overlap of patches,
the decisions and RefER. `photographs` are six larger pictures that come with scikit-image. PSNR on Y, 4 px cropped.

{summary}

## Without training

BitOPs saved against uniform W8A8 at its PSNR minus {drop} dB (between points linear along a front): uniform and
searched bits for whole images, and two widths patch by patch, of every layout, rule and share the best. Patches run
apart ({layouts}), or seamless ({seamless} px):
layer by layer, with their neighbours' pixels, without overlap. Searched patches mix two searched allocations that are
close on the front. `oracle` knows the originals and bounds rules that decide between two widths ({set}).

| network | set | patches | uniform | searched | {pair_heads} | searched patches | oracle |
|---|---|---|---|---|{pair_rules}|---|---|
{savings}

Where patches save most against whole images (uniform or searched) at their own PSNR, among settings that lose at most
{useful} dB; negative is a loss.

| network | set | setting | decided | PSNR, dB | at high bits | saving |
|---|---|---|---|---|---|---|
{best}

The curves of all settings are in table.json. On {set}, patches of {patch} pixels apart by edges, and seamless ones of
{seamless} by edges relative to their image:

| network | bits | patches | {shares} |
|---|---|---|{share_rules}|
{curve}

## RefER and its controls

{refer}

## Latency

Artefacts on this machine with both cores and a photograph of {size} pixels, medians of {rounds} interleaved rounds;
overhead is everything outside the bodies of the levels. Time does not depend on how long RefER was trained.

| network | artefact | ms | against W8A8 | decision | gather | RefER | merge | bodies | overhead |
|---|---|---|---|---|---|---|---|---|---|
{latency}

{latency_verdict}

## Seams

How much larger differences across borders of patches are than elsewhere, against the whole image at 8 bits; mean over
the photographs (wanted: at most {seam:.0%}). With {same} bits in all patches only what they cannot see of each other is
left: more overlap removes it, at its price in BitOPs, and seamless patches have none. Two widths far apart show at any
border.

| network | bits | {seam_heads} |
|---|---|{seam_rules}|
{seams}
"""

REFER = """Low widths trained alike ({iterations} iterations on one region of nine patches each, from the parameters
of calibration, L1 and distillation) with RefER and clustered references, with RefER and random references, and without
RefER; references at 8 bits; patches of {trained_patch} pixels, {classes} classes; measured in integers on {set}.
`share` is that of references in a cluster. Last column: the same low width without RefER for the whole image.

| network | low bits | share | {controls} | whole images, uniform |
|---|---|---|{control_rules}|---|
{trained}

{trained_verdict}"""
NOT_MADE = "Not made yet: `python results/refqsr/run.py --part trained`, about an hour for a network."


def page(content: dict[str, Any]) -> str:
    """The page; parts that were not made say so."""
    networks = {name: parts for name, parts in content["networks"].items() if parts}
    sets = {name: parts["curves"]["sets"] for name, parts in networks.items() if "curves" in parts}
    timed = {name: parts["latency"] for name, parts in networks.items() if "latency" in parts}
    first = next(iter(timed.values()), {"size": (0, 0), "rounds": 0})
    shares = [f"share {share:g}" for share in FEW_SHARES]
    return PAGE.format(
        date=content["date"], cpu=content["cpu"], calibration=CALIBRATION_IMAGES, drop=DROP_DB, useful=USEFUL_DROP_DB,
        summary="\n".join(_summary(sets)),
        layouts=", ".join(map(_words, LAYOUTS)), seamless=SEAMLESS.patch,
        pair_heads=" | ".join((*PAIRS, *NEAR)), pair_rules="|".join("---" for _ in (*PAIRS, *NEAR)),
        savings="\n".join(_savings(sets)), best="\n".join(_best(sets)), patch=LAYOUT.patch, set=SET,
        shares=" | ".join(shares), share_rules="|".join("---" for _ in shares), curve="\n".join(_curve(sets)),
        refer=_refer(networks) if any("trained" in parts for parts in networks.values()) else NOT_MADE,
        size="×".join(map(str, reversed(first["size"]))), rounds=first["rounds"],
        latency="\n".join(_latency(timed)), latency_verdict="\n".join(_latency_verdict(timed)), seam=SEAM, same=SAME,
        seam_heads=" | ".join(map(_words, SEAM_LAYOUTS)),
        seam_rules="|".join("---" for _ in SEAM_LAYOUTS), seams="\n".join(_seams(networks)),
    )  # fmt: skip


def _words(layout: Layout) -> str:
    return f"{layout.patch} px, " + ("seamless" if layout.seamless else f"overlap {layout.overlap}")


def _refer(networks: dict[str, Any]) -> str:
    iterations = sorted({parts["trained"]["iterations"] for parts in networks.values() if "trained" in parts})
    return REFER.format(
        iterations=" or ".join(map(str, iterations)), trained_patch=PATCHES.patch, classes=CLASSES, set=SET,
        controls=" | ".join(control.name for control in CONTROLS), control_rules="|".join("---" for _ in CONTROLS),
        trained="\n".join(_trained(networks)), trained_verdict="\n".join(_trained_verdict(networks)),
    )  # fmt: skip


def _of(entry: dict[str, Any], pair: str, oracle: bool = False, seamless: bool | None = None) -> list[float]:
    """BitOPs at the wanted PSNR of every kind of curve of a pair, seamless ones or others or (None) both."""
    return [
        curve["bitops"]
        for name, curve in entry["patches"].items()
        if name.startswith(f"{pair}, ") and ("oracle" in name) == oracle and curve["bitops"] is not None
        and (seamless is None or name.endswith("seamless") == seamless)
    ]  # fmt: skip


def _saved(entry: dict[str, Any], bitops: float | None) -> str:
    return "not reached" if bitops is None else f"{100 * (1 - bitops / entry['w8a8_bitops']):.1f} %"


def _savings(sets: dict[str, Any]) -> Iterator[str]:
    for network, by_set in sets.items():
        for name in SETS:
            entry = by_set[name]
            whole = _saved(entry, entry["uniform_bitops"]), _saved(entry, entry["searched_bitops"])
            for kind, seamless in (("apart", False), ("seamless", True)):
                bits = (*PAIRS, *NEAR)
                pairs = [_saved(entry, min(_of(entry, pair, False, seamless), default=None)) for pair in bits]
                mixed = [
                    curve["bitops"]
                    for title, curve in entry["patches"].items()
                    if title.startswith("searched") and curve["bitops"] is not None
                ]
                best = min((one for pair in bits for one in _of(entry, pair, True, seamless)), default=None)
                last = _saved(entry, min(mixed, default=None)) if seamless else "", _saved(entry, best) if best else ""
                cells = (*whole, *pairs, *last)
                yield f"| {TITLES[network]} | {name} | {kind} | {' | '.join(cells)} |"


def _best_of(entry: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """The setting that saves most against whole images, oracles left out."""
    found = [
        (name, curve["best_saving"])
        for name, curve in entry["patches"].items()
        if "oracle" not in name and curve["best_saving"]
    ]
    return max(found, key=lambda one: one[1]["saving"], default=None)


def _best(sets: dict[str, Any]) -> Iterator[str]:
    for network, by_set in sets.items():
        for name in SETS:
            best = _best_of(by_set[name])
            if best:
                setting, point = best
                yield (f"| {TITLES[network]} | {name} | {setting} | {point['name']} | {point['psnr_y_db']:.3f} "
                       f"| {100 * point['high_share']:.0f} % | {100 * point['saving']:.1f} % |")  # fmt: skip


def _curve(sets: dict[str, Any]) -> Iterator[str]:
    for network, by_set in sets.items():
        entry = by_set[SET]
        for pair in (*PAIRS, *NEAR):
            for policy, layout in (("edges", LAYOUT), ("relative", SEAMLESS)):
                points = entry["patches"][f"{pair}, {policy}, {layout_name(layout)}"]["points"]
                shown = {float(p["name"].split()[-1]): p for p in points}
                cells = [f"{shown[s]['psnr_y_db']:.3f} dB, {shown[s]['bitops'] / 1e9:.0f} G" for s in FEW_SHARES]
                kind = "seamless" if layout.seamless else "apart"
                yield f"| {TITLES[network]} | {pair} | {kind} | {' | '.join(cells)} |"


def _summary(sets: dict[str, Any]) -> Iterator[str]:
    """What was wanted and what was found, from the numbers."""
    entries = [(network, name, by_set[name]) for network, by_set in sets.items() for name in SETS]
    reached = [e for *_, e in entries if (one := _least(e)) is not None and 1 - one / e["w8a8_bitops"] >= WANTED_SAVING]
    yield (f"At W8A8's PSNR minus {DROP_DB} dB, per-patch bits save at least {WANTED_SAVING:.0%} of the BitOPs in "
           f"{len(reached)} of {len(entries)} pairs of network and image set.")  # fmt: skip
    beaten = [e for *_, e in entries if (one := _least(e)) is not None and one < (e["searched_bitops"] or 0)]
    yield (f"They need fewer than the best bits for whole images, uniform or searched, in {len(beaten)} of "
           f"{len(entries)}.")  # fmt: skip
    best = [(network, name, *one) for network, name, entry in entries if (one := _best_of(entry))]
    better = [point["saving"] for *_, point in best if point["saving"] > 0]
    if better:
        yield (f"At its own PSNR the best setting of patches needs {min(better):.1%} to {max(better):.1%} fewer than "
               f"whole images, uniform or searched, in {len(better)} of {len(entries)}: seamless patches that mix two "
               "searched allocations.")  # fmt: skip
    if len(beaten) < len(entries):
        yield (
            "Where they do not, or by little, the reasons are: patches apart compute their overlap twice (a factor of "
            "1.31 at 32 pixels, 1.19 at 48), which seamless ones do not; and BitOPs fall with the square of the bits "
            "while the error rises slowly down to 5 bits and fast below, so that a mixture of 8 and 3 or 4 bits costs "
            "more than 5 or 6 everywhere, even where an oracle decides."
        )


def _least(entry: dict[str, Any]) -> float | None:
    """BitOPs of the best setting of patches at the wanted PSNR, oracles left out."""
    curves = [curve["bitops"] for name, curve in entry["patches"].items() if "oracle" not in name]
    return min((bitops for bitops in curves if bitops is not None), default=None)


def _trained(networks: dict[str, Any]) -> Iterator[str]:
    for network, parts in networks.items():
        found = parts.get("trained")
        for width in WIDTHS if found else ():
            by_control = [found[f"{width}, {control.name}"] for control in CONTROLS]
            whole = found[f"{width}, whole images"]
            for rows in zip(*by_control, strict=True):
                share = "one each" if rows[0]["share"] is None else f"{rows[0]['share']:.0%}"
                cells = [f"{row['psnr_y_db']:.3f} dB, {row['bitops'] / 1e9:.0f} G" for row in rows]
                yield (f"| {TITLES[network]} | {width} | {share} | {' | '.join(cells)} "
                       f"| {whole['psnr_y_db']:.3f} dB, {whole['bitops'] / 1e9:.0f} G |")  # fmt: skip


def _trained_verdict(networks: dict[str, Any]) -> Iterator[str]:
    for network, parts in networks.items():
        found = parts.get("trained")
        if not found:
            continue
        none, random, clustered = (
            max(row["psnr_y_db"] for row in found[f"{min(WIDTHS)}, {control.name}"]) for control in CONTROLS
        )
        better = clustered > none and clustered > random
        yield (f"- {TITLES[network]}, {min(WIDTHS)} bits: RefER with clustered references "
               f"{'beats' if better else 'does not beat'} both controls ({clustered - none:+.3f} dB against none, "
               f"{clustered - random:+.3f} dB against random).")  # fmt: skip


def _latency(timed: dict[str, Any]) -> Iterator[str]:
    for network, found in timed.items():
        base = found["artefacts"]["8"]["latency_ms"]
        for name, one in found["artefacts"].items():
            stages = one.get("stages")
            split = (
                [f"{stages[key]:.1f}" for key in ("decision", "gather", "refer", "merge", "bodies")] if stages else []
            )
            cells = [*split, f"{one['overhead']:.1%}"] if stages else ["", "", "", "", "", ""]
            yield (f"| {TITLES[network]} | {name} | {one['latency_ms']:.1f} | {one['latency_ms'] / base:.2f} × "
                   f"| {' | '.join(cells)} |")  # fmt: skip


def _latency_verdict(timed: dict[str, Any]) -> Iterator[str]:
    for network, found in timed.items():
        artefacts = found["artefacts"]
        for kind in ("seamless", "RefER"):
            most = max(one["overhead"] for name, one in artefacts.items() if kind in name)
            yield f"- {TITLES[network]}: overhead of {kind} up to {most:.1%} (wanted: at most {OVERHEAD:.0%})."
        near = f"6-5 relative, seamless {SEAMLESS.patch}"
        mixed, whole = artefacts[near]["latency_ms"], {bits: artefacts[bits]["latency_ms"] for bits in ("6", "5")}
        yield (
            f"- {TITLES[network]}: fewer BitOPs are no less time here. {near} takes {mixed:.0f} ms, whole images at 6 "
            f"and 5 bits {whole['6']:.0f} and {whole['5']:.0f}: copies of runs of patches, the further outputs on the "
            "other level's grid and short runs cost more than the bits save."
        )


def _seams(networks: dict[str, Any]) -> Iterator[str]:
    for network, parts in networks.items():
        if "seams" in parts:
            by_layout = [parts["seams"][seam_name(one)] for one in SEAM_LAYOUTS]
            for bits, relative in ((SAME, None), *DECIDED.items()):
                rule = "" if relative is None else ", relative" if relative else ", edges"
                yield f"| {TITLES[network]} | {bits}{rule} | {' | '.join(f'{one[bits]:+.1%}' for one in by_layout)} |"
