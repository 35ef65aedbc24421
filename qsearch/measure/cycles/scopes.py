"""How often the loops and branches of a kernel run, from its TIR; and marks by which machine code is recognised.

Every loop and every branch of a kernel is a *scope*. `mark` writes the number of its scope into the source line of
every statement, and LLVM carries source lines through optimisation into the loops of the machine code.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.ir import SourceName, Span

from qsearch.errors import QsearchError
from qsearch.measure.cycles.expressions import evaluate

Stmt = Any
Expr = Any
_SAMPLED_ABOVE = 16


@dataclass(frozen=True)
class Scope:
    """A loop or a branch; `number` is its index in `Scopes.all`, 0 is the whole kernel."""

    number: int
    parent: int
    loop: bool
    parallel: bool = False
    """Whether its rounds are the tasks of a kernel."""
    group: int = 0
    """Equal for the branches of one condition."""


class Scopes:
    """The scopes of one kernel whose statements were marked by `mark`."""

    def __init__(self) -> None:
        self.all: list[Scope] = [Scope(0, 0, False)]
        self._numbers: dict[tuple[int, ...], int] = {}
        self._body: Stmt = None

    def mark(self, body: Stmt) -> Stmt:
        """`body` with the scope numbers (plus 1) as the source lines of its statements."""
        marked = self._marked(body, 0, ())
        self._body = body
        return marked

    def path(self, number: int) -> list[int]:
        """The scopes from the whole kernel down to `number`."""
        found = [number]
        while found[-1]:
            found.append(self.all[found[-1]].parent)
        return found[::-1]

    def executions(self, values: dict[Any, int]) -> list[float]:
        """How often the body of every scope runs, for the values of the variables that the kernel gets from outside."""
        counts = [0.0] * len(self.all)
        _Walk(self._numbers, _controls(self._body), counts).visit(self._body, dict(values), 1.0, (), 0)
        return counts

    def _new(self, parent: int, place: tuple[int, ...], loop: bool, parallel: bool = False, group: int = 0) -> int:
        number = len(self.all)
        self.all.append(Scope(number, parent, loop, parallel, group))
        self._numbers[place] = number
        return number

    def _marked(self, stmt: Stmt, scope: int, place: tuple[int, ...]) -> Stmt:
        line = _line(scope)
        if isinstance(stmt, tirx.SeqStmt):
            return tirx.SeqStmt([self._marked(part, scope, (*place, i)) for i, part in enumerate(stmt.seq)], line)
        if isinstance(stmt, tirx.For):
            number = self._new(scope, place, True, stmt.kind == tirx.ForKind.PARALLEL)
            # LLVM takes the line of the increment and the jump back from the statement before them.
            body = tirx.SeqStmt([_nothing(number), self._marked(stmt.body, number, (*place, 0)), _nothing(number)])
            return tirx.For(
                stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body, stmt.thread_binding, stmt.annotations, stmt.step,
                _line(number),
            )  # fmt: skip
        if isinstance(stmt, tirx.IfThenElse):
            group = len(self.all)
            both = (stmt.then_case, stmt.else_case)
            cases = [self._case(case, scope, (*place, i), group) for i, case in enumerate(both)]
            return tirx.IfThenElse(stmt.condition, cases[0], cases[1], line)
        if isinstance(stmt, tirx.AttrStmt):
            return tirx.AttrStmt(
                stmt.node, stmt.attr_key, stmt.value, self._marked(stmt.body, scope, (*place, 0)), line
            )
        if isinstance(stmt, tirx.BufferStore):
            return tirx.BufferStore(stmt.buffer, stmt.value, stmt.indices, span=line)
        if isinstance(stmt, tirx.Bind):
            return tirx.Bind(stmt.var, stmt.value, line)
        if isinstance(stmt, tirx.Evaluate):
            return tirx.Evaluate(stmt.value, line)
        return stmt

    def _case(self, case: Stmt | None, scope: int, place: tuple[int, ...], group: int) -> Stmt | None:
        if case is None:
            return None
        number = self._new(scope, place, False, group=group)
        return tirx.SeqStmt([_nothing(number), self._marked(case, number, (*place, 0))])


def _line(scope: int) -> Span:
    return Span(SourceName("kernel"), scope + 1, scope + 1, 1, 1)


def _nothing(scope: int) -> Stmt:
    """A statement without code, after which LLVM's source line is that of `scope`."""
    return tirx.Evaluate(tirx.IntImm("int32", 0), _line(scope))


class _Walk:
    """Adds up the executions of every scope."""

    def __init__(self, numbers: dict[tuple[int, ...], int], controls: set[int], counts: list[float]) -> None:
        self.numbers, self.controls, self.counts = numbers, controls, counts

    def visit(self, stmt: Stmt, values: dict[Any, int], times: float, place: tuple[int, ...], scope: int) -> None:
        if isinstance(stmt, tirx.SeqStmt):
            for index, part in enumerate(stmt.seq):
                self.visit(part, values, times, (*place, index), scope)
        elif isinstance(stmt, tirx.AttrStmt):
            self.visit(stmt.body, values, times, (*place, 0), scope)
        elif isinstance(stmt, tirx.Bind):
            if hash(stmt.var) in self.controls and hash(stmt.var) not in values:
                value = evaluate(stmt.value, values)
                if value is not None:
                    values[hash(stmt.var)] = value
        elif isinstance(stmt, tirx.For):
            self._loop(stmt, values, times, place)
        elif isinstance(stmt, tirx.IfThenElse):
            condition = evaluate(stmt.condition, values)
            # What depends on the data is taken half of the time.
            shares = (0.5, 0.5) if condition is None else (float(bool(condition)), float(not condition))
            for index, (case, share) in enumerate(zip((stmt.then_case, stmt.else_case), shares, strict=True)):
                if case is not None and share:
                    number = self.numbers[(*place, index)]
                    self.counts[number] += times * share
                    self.visit(case, dict(values), times * share, (*place, index, 0), number)

    def _loop(self, stmt: Stmt, values: dict[Any, int], times: float, place: tuple[int, ...]) -> None:
        number = self.numbers[place]
        extent, start = evaluate(stmt.extent, values), evaluate(stmt.min, values) or 0
        if extent is None:
            raise QsearchError("there is no cycle model of a kernel whose loops depend on data")
        for value, share in _samples(max(extent, 0), hash(stmt.loop_var) in self.controls):
            inside = {**values, hash(stmt.loop_var): start + value}
            self.counts[number] += times * share
            self.visit(stmt.body, inside, times * share, (*place, 0), number)


def _samples(extent: int, controls: bool) -> Iterator[tuple[int, float]]:
    """Values of a loop variable and how many iterations each stands for; edges differ, what is between is alike."""
    if extent == 0:
        return
    if not controls:
        yield 0, float(extent)
    elif extent <= _SAMPLED_ABOVE:
        yield from ((value, 1.0) for value in range(extent))
    else:
        middle = extent // 2
        yield from ((0, 1.0), (middle, (extent - 2) / 2), (middle + 1, (extent - 2) / 2), (extent - 1, 1.0))


def _controls(body: Stmt) -> set[int]:
    """The variables (by hash) on which extents and conditions depend, directly or through bound variables."""
    wanted: set[int] = set()
    bound: list[tuple[int, Expr]] = []
    for stmt in _statements(body):
        if isinstance(stmt, tirx.For):
            wanted |= _variables(stmt.extent) | _variables(stmt.min)
        elif isinstance(stmt, tirx.IfThenElse):
            wanted |= _variables(stmt.condition)
        elif isinstance(stmt, tirx.Bind):
            bound.append((hash(stmt.var), stmt.value))
    for variable, value in reversed(bound):  # a variable is bound before it is used
        if variable in wanted:
            wanted |= _variables(value)
    return wanted


def _statements(stmt: Stmt) -> Iterator[Stmt]:
    yield stmt
    if isinstance(stmt, tirx.SeqStmt):
        for part in stmt.seq:
            yield from _statements(part)
    elif isinstance(stmt, (tirx.For, tirx.AttrStmt)):
        yield from _statements(stmt.body)
    elif isinstance(stmt, tirx.IfThenElse):
        for case in (stmt.then_case, stmt.else_case):
            if case is not None:
                yield from _statements(case)


def _variables(expr: Expr) -> set[int]:
    return {hash(variable) for variable in tirx.analysis.undefined_vars(tirx.Evaluate(expr))}
