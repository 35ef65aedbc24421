"""The value of a TIR expression over integers."""

from collections.abc import Callable, Mapping
from typing import Any

from tvm import tirx
from tvm.ir import Call
from tvm.target.codegen import llvm_lookup_intrinsic_id

Expr = Any
# The intrinsic that tells LLVM which value a condition has, and has that value.
_EXPECT = int(llvm_lookup_intrinsic_id("llvm.expect"))


def _truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


_BINARY: dict[type, Callable[[int, int], int]] = {
    tirx.Add: lambda a, b: a + b,
    tirx.Sub: lambda a, b: a - b,
    tirx.Mul: lambda a, b: a * b,
    tirx.Div: _truncated,
    tirx.Mod: lambda a, b: a - b * _truncated(a, b),
    tirx.FloorDiv: lambda a, b: a // b,
    tirx.FloorMod: lambda a, b: a % b,
    tirx.Min: min,
    tirx.Max: max,
    tirx.EQ: lambda a, b: int(a == b),
    tirx.NE: lambda a, b: int(a != b),
    tirx.LT: lambda a, b: int(a < b),
    tirx.LE: lambda a, b: int(a <= b),
    tirx.GT: lambda a, b: int(a > b),
    tirx.GE: lambda a, b: int(a >= b),
    tirx.And: lambda a, b: int(bool(a and b)),
    tirx.Or: lambda a, b: int(bool(a or b)),
    tirx.LShift: lambda a, b: a << b,
    tirx.RShift: lambda a, b: a >> b,
    tirx.BitwiseAnd: lambda a, b: a & b,
    tirx.BitwiseOr: lambda a, b: a | b,
    tirx.BitwiseXor: lambda a, b: a ^ b,
}


def evaluate(expr: Expr, values: Mapping[int, int]) -> int | None:
    """The value of a scalar integer expression; `values` holds variables by hash. None where it depends on data.

    Calls of the runtime succeed: they give 0.
    """
    if isinstance(expr, tirx.IntImm):
        return int(expr.value)
    if isinstance(expr, tirx.Var):
        return values.get(hash(expr))
    if isinstance(expr, tirx.Cast):
        return evaluate(expr.value, values)
    if isinstance(expr, tirx.Not):
        value = evaluate(expr.a, values)
        return None if value is None else int(not value)
    if isinstance(expr, tirx.Select):
        return _chosen(expr.condition, expr.true_value, expr.false_value, values)
    if isinstance(expr, Call):
        return _call(expr, values)
    compute = _BINARY.get(type(expr))
    return None if compute is None else _pair(compute, expr.a, expr.b, values)


def _pair(compute: Callable[[int, int], int], a: Expr, b: Expr, values: Mapping[int, int]) -> int | None:
    left, right = evaluate(a, values), evaluate(b, values)
    return None if left is None or right is None else compute(left, right)


def _chosen(condition: Expr, yes: Expr, no: Expr, values: Mapping[int, int]) -> int | None:
    value = evaluate(condition, values)
    return None if value is None else evaluate(yes if value else no, values)


def _call(expr: Expr, values: Mapping[int, int]) -> int | None:
    name = getattr(expr.op, "name", "")
    if name == "tirx.shift_right":
        return _pair(lambda a, b: a >> b, expr.args[0], expr.args[1], values)
    if name == "tirx.call_llvm_pure_intrin" and evaluate(expr.args[0], values) == _EXPECT:
        return evaluate(expr.args[1], values)
    if name != "tirx.if_then_else":
        return 0
    condition, yes, no = expr.args
    return _chosen(condition, yes, no, values)
