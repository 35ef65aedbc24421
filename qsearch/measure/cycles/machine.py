"""The machine code of a kernel's task loop, split into the blocks of its IR."""

import re
from collections import Counter

_FUNCTION = re.compile(r"^(?:\.L|\$|L)?__tvm_parallel_lambda[\w.]*:")
_LINE = re.compile(r"^\s+\.loc\s+\d+\s+(\d+)")
_LABEL = re.compile(r"^\.?L[\w.$]*:")
_END = re.compile(r"^\.?Lfunc_end")
_JUMP = re.compile(r"\.LBB\d+_\d+|^(ret|br|bx|pop\s.*pc)\b")


def blocks_of(assembly: str) -> dict[int, list[str]]:
    """The instructions of every IR block by its source line, in the order of the machine code."""
    found: dict[int, list[str]] = {}
    previous = 1
    for instructions, lines in _machine_blocks(assembly):
        if instructions:
            counted = Counter(lines)
            previous = counted.most_common(1)[0][0] if counted else previous
            found.setdefault(previous, []).extend(instructions)
    return found


def _machine_blocks(assembly: str) -> list[tuple[list[str], list[int]]]:
    """(instructions, source lines of those that have one) of every basic block of the task loops."""
    blocks: list[tuple[list[str], list[int]]] = [([], [])]
    inside, line = False, 0
    for text in assembly.splitlines():
        if _FUNCTION.match(text):
            inside = True
        elif _END.match(text):
            inside = False
        if not inside:
            continue
        position = _LINE.match(text)
        if position:
            line = int(position[1])
        elif _LABEL.match(text):
            blocks.append(([], []))
        elif text.startswith("\t") and not text.startswith("\t."):
            instruction = text.strip()
            blocks[-1][0].append(instruction)
            if line:
                blocks[-1][1].append(line)
            if _JUMP.search(instruction):
                blocks.append(([], []))
    return blocks
