"""What the rules of elementwise operators share: constants, types, the C library."""

from typing import Any

from torch import fx
from tvm import tirx

from effc.codegen.tir import Expr, const, dtype_of, lanes_of
from effc.ir.opspec import op_name


class NeedsScalarError(Exception):
    """Raised while building a vector kernel when something exists one element at a time only."""


def bound(expr: Expr, value: float) -> Expr:
    """A constant of the type and lanes of an expression."""
    return const(value, dtype_of(expr))


def is_float(expr: Expr) -> bool:
    """Whether an expression is floating-point."""
    return dtype_of(expr).startswith("float")


def is_bool(x: Expr) -> bool:
    """Whether an expression is a predicate."""
    return dtype_of(x).startswith("bool")


def negated(x: Expr) -> Expr:
    """The opposite of a predicate (TVM's analyzer crashes on `Not` of a vector)."""
    return tirx.bitwise_xor(x, const(True, dtype_of(x)))


def truth(x: Expr) -> Expr:
    """A predicate: whether a value is not zero (`NE` would compare NaN in order)."""
    return x if is_bool(x) else negated(tirx.EQ(x, bound(x, 0)))


def is_nan(x: Expr) -> Expr:
    """Whether a value is not a number (LLVM gets an ordered comparison: NaN equals nothing)."""
    return negated(tirx.EQ(x, x))


def larger(x: Expr, y: Expr) -> Expr:
    """The larger of two values; NaN if one is: `Max` gives its second operand then.

    Running totals are the first operand, so that what is computed of the second need not wait.
    """
    if is_bool(x):
        return x | y
    picked = tirx.Max(y, x)
    return tirx.Select(tirx.EQ(y, y), picked, y) if is_float(x) else picked


def smaller(x: Expr, y: Expr) -> Expr:
    """The smaller of two values; NaN if one is."""
    if is_bool(x):
        return x & y
    picked = tirx.Min(y, x)
    return tirx.Select(tirx.EQ(y, y), picked, y) if is_float(x) else picked


def base_of(node: fx.Node) -> str:
    """The operator's name without namespace and overload: `aten.add.Tensor` to `add`."""
    return op_name(node).split(".")[1] if "." in op_name(node) else op_name(node)


def argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """A constant argument by position or name."""
    if len(node.args) > position:
        return node.args[position]
    return node.kwargs.get(name, default)


def library(name: str, *operands: Expr) -> Expr:
    """Call a function of the C library, one element at a time."""
    if lanes_of(operands[0]) > 1:
        raise NeedsScalarError(name)
    dtype = dtype_of(operands[0])
    suffix = "f" if dtype == "float32" else ""
    return tirx.call_pure_extern(dtype, name + suffix, *operands)
