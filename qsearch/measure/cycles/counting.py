"""Cycles of straight code by counting instructions of each kind against a core's rates."""

import re
from collections.abc import Sequence

from qsearch.measure.cycles.cores import Core

_X86_REGISTER = re.compile(r"%([xyz])mm\d+")
_ARM_REGISTER = re.compile(r"\b[vqd]\d+\b")
_WHOLE = re.compile(r"\bq\d+\b|\bv\d+\.(?:16b|8h|4s|2d)\b")
_ARM_LOAD = re.compile(r"v?ldr|v?ld[1-4]|ldp|ldu|vldm|ldm|pop")
_ARM_STORE = re.compile(r"v?str|v?st[1-4]|stp|stu|vstm|stm|push")
_X86_CONTROL = re.compile(r"j|ret|call|vzeroupper")
_DOT = re.compile(r"^v?p?dp[bw]|^v?pdp|^[su]+dot|^v[su]+dot|^[su]+mmla|^vpmaddubsw|^vpmaddwd|^pmaddwd")
_MULTIPLY = re.compile(
    r"^v?pmul|^v?mul[ps]|^v?fma|^v?fm?ul|^f?ml[as]|^[su]ml[as]l|^[su]mull|^vmul|^vml[as]|^sq?r?dmul|^mul$"
)


def kinds(instructions: Sequence[str], half: float = 1.0) -> dict[str, float]:
    """How many instructions of every kind there are: dot, multiply, vector, load, store, other.

    An ARM instruction on at most 64 bits counts as `half`. An x86 instruction with a memory operand counts as a load
    and as what it computes.
    """
    counts = dict.fromkeys(("dot", "multiply", "vector", "load", "store", "other"), 0.0)
    for instruction in instructions:
        mnemonic, _, operands = instruction.partition("\t")
        if mnemonic.startswith("{"):  # the encoding that x86 asks for, as in {vex}
            mnemonic, _, operands = operands.partition("\t")
        x86 = "%" in operands or _X86_CONTROL.match(mnemonic)
        for kind, amount in _x86(mnemonic, operands) if x86 else _arm(mnemonic, operands, half):
            counts[kind] += amount
    return counts


def _x86(mnemonic: str, operands: str) -> list[tuple[str, float]]:
    vector = bool(_X86_REGISTER.search(operands))
    memory = "(" in operands and not mnemonic.startswith(("lea", "nop"))
    if memory and operands.split("#")[0].rstrip().endswith((")", "}")) and not mnemonic.startswith(("cmp", "test")):
        return [("store", 1.0)]  # the destination comes last
    found = [("load", 1.0)] if memory else []
    plain = mnemonic.startswith(("mov", "vmov", "vpbroadcast", "vbroadcast", "vpmov")) and memory
    if not plain:
        found.append((_kind(mnemonic.split(".")[0], vector), 1.0))
    return found


def _arm(mnemonic: str, operands: str, half: float) -> list[tuple[str, float]]:
    size = 1.0 if _WHOLE.search(operands) else half
    base = mnemonic.split(".")[0]
    for kind, pattern in (("load", _ARM_LOAD), ("store", _ARM_STORE)):
        if pattern.match(base):
            return [(kind, size * (2.0 if base in ("ldp", "stp") else 1.0))]
    vector = bool(_ARM_REGISTER.search(operands))
    return [(_kind(base, vector), size if vector else 1.0)]


def _kind(mnemonic: str, vector: bool) -> str:
    if vector and _DOT.search(mnemonic):
        return "dot"
    if vector and _MULTIPLY.search(mnemonic):
        return "multiply"
    return "vector" if vector else "other"


def cycles(core: Core, instructions: Sequence[str]) -> float:
    """Cycles of one round of `instructions` in a loop: what the busiest part of the core needs."""
    counts = kinds(instructions, 0.5 if core.loads < 1 else 1.0)  # a core with 64-bit paths
    computing = counts["dot"] + counts["multiply"] + counts["vector"]
    return max(
        sum(counts.values()) / core.issue_width,
        computing / core.vector_ops,
        counts["dot"] / core.dots + counts["multiply"] / core.multiplies,
        counts["load"] / core.loads,
        counts["store"] / core.stores,
    )
