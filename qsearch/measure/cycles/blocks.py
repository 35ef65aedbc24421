"""Basic blocks of a kernel in optimised LLVM IR: how often each runs, and the IR with one source line per block.

The IR was made from TIR with marked scopes. LLVM may have unrolled, copied or removed loops since; the scope on the
jump back of a loop says which one it is.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from qsearch.measure.cycles.graph import Loop, loop_forest
from qsearch.measure.cycles.scopes import Scopes

_KERNEL = re.compile(r"^define .*@__tvm_parallel_lambda[\w.]*\(")
_LABEL = re.compile(r'^("[^"]+"|[\w.$-]+):')
_TARGETS = re.compile(r'label %("[^"]+"|[\w.$-]+)')
_DEBUG = re.compile(r", !dbg !(\d+)")
_LOCATION = re.compile(r"^!(\d+) = (?:distinct )?!DILocation\(line: (\d+)")
_PHI = re.compile(r"^\s+(%\S+) = phi i\d+ (.*)")
_SUBPROGRAM, _TYPE, _FIRST = 900000, 900001, 900002


@dataclass
class Block:
    """One basic block: its lines of IR, the scopes of its instructions, and where it goes."""

    name: str
    lines: list[str] = field(default_factory=list)
    scopes: list[int] = field(default_factory=list)
    """Scope of every instruction, -1 where LLVM lost it."""
    successors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Region:
    """Blocks that run equally often: `times` executions, for the executions of the scopes that were given."""

    blocks: frozenset[int]
    """Their source lines in `Kernel.text`."""
    times: float


class Kernel:
    """The function of one task loop."""

    def __init__(self, ir: str, scopes: Scopes) -> None:
        self.scopes = scopes
        lines = ir.splitlines()
        locations = {int(m[1]): int(m[2]) for m in map(_LOCATION.match, lines) if m}
        self.blocks: list[Block] = []
        self.text = "\n".join(self._relined(lines, locations)) + "\n"
        index = {block.name: i for i, block in enumerate(self.blocks)}
        self._edges = [[index[name] for name in block.successors if name in index] for block in self.blocks]
        self._loops = loop_forest(self._edges)

    def _relined(self, lines: Sequence[str], locations: dict[int, int]) -> list[str]:
        """The IR with the blocks of task loops on source lines of their own: block i on line i + 1."""
        result: list[str] = []
        function = -1
        inside = False
        for line in lines:
            if _KERNEL.match(line):
                inside, function = True, function + 1
                self.blocks.append(Block(f"entry {function}"))
                line = re.sub(r"(?: !dbg !\d+)? \{$", f" !dbg !{_SUBPROGRAM} {{", line)
            elif inside and line == "}":
                inside = False
            elif inside and line.strip():
                if line.lstrip().startswith("#dbg_"):
                    continue
                line = self._line(line, locations, function)
            result.append(line)
        return result + self._metadata(lines)

    def _line(self, line: str, locations: dict[int, int], function: int) -> str:
        label = _LABEL.match(line)
        if label:
            if self.blocks[-1].lines:
                self.blocks.append(Block(""))
            self.blocks[-1].name = f"{label[1]} {function}"
            return line
        block = self.blocks[-1]
        block.lines.append(line)
        block.successors += [f"{name} {function}" for name in _TARGETS.findall(line)]
        debug = _DEBUG.search(line)
        block.scopes.append(locations.get(int(debug[1]), 0) - 1 if debug else -1)
        if line.endswith((" [", ",")) or line.startswith("    "):  # a switch goes over several lines
            return line
        return f"{_DEBUG.sub('', line)}, !dbg !{_FIRST + len(self.blocks) - 1}"

    def _metadata(self, lines: Sequence[str]) -> list[str]:
        unit = next(line.split()[0] for line in lines if "!DICompileUnit(" in line)
        file = next(line.split()[0] for line in lines if "!DIFile(" in line)
        made = [
            f'!{_SUBPROGRAM} = distinct !DISubprogram(name: "kernel", scope: {file}, file: {file}, type: !{_TYPE}, '
            f"spFlags: DISPFlagDefinition | DISPFlagOptimized, unit: {unit})",
            f"!{_TYPE} = !DISubroutineType(types: !{{null}})",
        ]
        return made + [
            f"!{_FIRST + i} = !DILocation(line: {i + 1}, column: 1, scope: !{_SUBPROGRAM})"
            for i in range(len(self.blocks))
        ]

    def regions(self, executions: Sequence[float]) -> list[Region]:
        """All blocks that run, in groups of equal executions within one loop."""
        found: list[Region] = []
        self._visit(self._loops, 0, 1.0, executions, found)
        return found

    def _visit(
        self, loops: Sequence[Loop], scope: int, part: float, executions: Sequence[float], found: list[Region]
    ) -> None:
        """Adds the regions of sibling `loops`; they lie in a copy of loop `scope` that does `part` of its rounds."""
        inner = [self._scope_of(loop, scope) for loop in loops]
        steps = [self._step(loop) for loop in loops]
        for loop, number, step in zip(loops, inner, steps, strict=True):
            total = executions[number] * part
            if not total:
                continue
            copies = [s for other, s in zip(inner, steps, strict=True) if other == number]
            if step == 1 and max(copies) > 1:  # the remainder of an unrolled copy
                outside = (executions[self.scopes.all[number].parent] or 1.0) * part
                repeats = outside * (total / outside % max(copies))
            else:
                weights = [
                    self._weight(other, number, executions) if (n, s) == (number, step) else 0.0
                    for other, n, s in zip(loops, inner, steps, strict=True)
                ]
                own = self._weight(loop, number, executions)
                repeats = total / step * (own / sum(weights) if any(weights) else 1 / sum(s == step for s in copies))
                if not repeats:
                    continue
            self._visit(loop.inner, number, part * repeats * step / total, executions, found)
            groups: dict[float, set[int]] = {}
            for block in loop.own:
                groups.setdefault(self._share(block, number, executions), set()).add(block + 1)
            found += [Region(frozenset(group), repeats * share) for share, group in groups.items() if share]

    def _weight(self, loop: Loop, number: int, executions: Sequence[float]) -> float:
        """The share of a copy of loop `number` that LLVM made for some branches of the conditions in it."""
        present = {
            s for block in loop.all for scope in self.blocks[block].scopes for s in self.scopes.path(max(scope, 0))
        }
        groups: dict[int, dict[int, float]] = {}
        for branch in self.scopes.all:
            if branch.parent == number and not branch.loop:
                share = executions[branch.number] / (executions[number] or 1.0)
                groups.setdefault(branch.group, {})[branch.number] = share
        found = 1.0
        for branches in groups.values():
            taken = sum(share for branch, share in branches.items() if branch in present)
            found *= taken if present & branches.keys() else 1.0 - sum(branches.values())
        return found

    def _scope_of(self, loop: Loop, outer: int) -> int:
        """The TIR loop that an LLVM loop in one of scope `outer` came from."""
        allowed = self._between(outer, [self._jump_scope(inner) for inner in loop.inner])
        said = self._jump_scope(loop)
        if said in allowed:
            return said
        # LLVM has merged the jump back with another: the innermost loop that has instructions there.
        found = {self._loop_of(scope) for block in loop.own for scope in self.blocks[block].scopes} & set(allowed)
        return max(found, key=allowed.index, default=allowed[0] if allowed else outer)

    def _between(self, outer: int, inside: Sequence[int]) -> list[int]:
        """The loops in `outer` that contain all scopes `inside` (-1 is an unknown one), outermost first."""
        paths = [set(self.scopes.path(scope)[:-1]) for scope in inside if scope >= 0]
        paths = [path for path in paths if outer in path]
        loops = [scope.number for scope in self.scopes.all if scope.loop and scope.number != outer]
        return [s for s in loops if outer in self.scopes.path(s) and all(s in path for path in paths)]

    def _jump_scope(self, loop: Loop) -> int:
        """The TIR loop of the jump back to a loop's entry, -1 where LLVM lost it."""
        ends = [block for block in loop.all if loop.header in self._edges[block]]
        said = {self._loop_of(self.blocks[block].scopes[-1]) for block in ends}
        return said.pop() if len(said) == 1 else -1

    def _loop_of(self, scope: int) -> int:
        """The innermost TIR loop of a scope, -1 for none."""
        return next((s for s in self.scopes.path(scope)[::-1] if self.scopes.all[s].loop), -1) if scope >= 0 else -1

    def _step(self, loop: Loop) -> int:
        """Iterations of the TIR loop that one round of the LLVM loop does."""
        header = self.blocks[loop.header]
        steps: list[int] = []
        for line in header.lines:
            phi = _PHI.match(line)
            for value in re.findall(r"\[ (%\S+), ", phi[2]) if phi else []:
                added = re.compile(rf"^\s+{re.escape(value)} = add [\w ]*i\d+ {re.escape(phi[1])}, (-?\d+)")  # type: ignore[index]
                steps += [abs(int(m[1])) for b in loop.all for m in map(added.match, self.blocks[b].lines) if m]
        return min(steps, default=1)

    def _share(self, block: int, scope: int, executions: Sequence[float]) -> float:
        """The share of the rounds of a loop of `scope` in which a block of it runs."""
        paths = [self.scopes.path(s) for s in self.blocks[block].scopes if s >= 0]
        inside = [set(path) for path in paths if scope in path]
        common = set.intersection(*inside) - set(self.scopes.path(scope)) if inside else set[int]()
        branches = [self.scopes.all[s] for s in common if not self.scopes.all[s].loop]
        return math.prod(executions[branch.number] / (executions[branch.parent] or 1.0) for branch in branches)
