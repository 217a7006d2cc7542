"""Sizes: integers or arithmetic over named symbols such as `batch` and `sequence`.

torch.export names its symbols `s77`; a program shows the user's names. A *size* here is an `int`
or a `sympy` expression over the user's symbols, so that equal sizes compare equal.
"""

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import sympy
import torch
from torch.utils._sympy.functions import FloorDiv

Size: TypeAlias = int | sympy.Expr


@dataclass(frozen=True)
class Symbol:
    """A symbolic dimension and the inclusive range it may take.

    Attributes:
        name: The user's name of the dimension.
        minimum: Smallest allowed value.
        maximum: Largest allowed value.
    """

    name: str
    minimum: int
    maximum: int

    @property
    def expr(self) -> sympy.Symbol:
        """The symbol as it appears in sizes."""
        return named(self.name)

    def __str__(self) -> str:
        return f"{self.name}={self.minimum}..{self.maximum}"


def named(name: str) -> sympy.Symbol:
    """The sympy symbol of a named dimension (a positive integer)."""
    return sympy.Symbol(name, integer=True, positive=True)


def simplify(size: sympy.Expr | int) -> Size:
    """Return `size` as an int where it is a number, else in a canonical expanded form."""
    if isinstance(size, int):
        return size
    size = sympy.expand(size)
    return int(size) if size.is_Integer else size


def size_of(value: int | torch.SymInt, names: dict[sympy.Symbol, str]) -> Size:
    """Convert a torch size to a size over the user's symbols.

    Args:
        value: An entry of a tensor's shape.
        names: torch's own symbol for each user's name.
    """
    if isinstance(value, int):
        return value
    expr = value.node.expr
    return simplify(expr.xreplace({old: named(new) for old, new in names.items()}))


def evaluate(size: Size, values: dict[str, int]) -> int:
    """The number a size has when the symbols take `values`.

    Computed on Python's integers: sympy's own substitution takes tenths of milliseconds and is
    wrong for some nested remainders.

    Raises:
        KeyError: If a symbol has no value.
    """
    if isinstance(size, int):
        return size
    if isinstance(size, sympy.Symbol):
        return values[size.name]
    if isinstance(size, sympy.Integer):
        return int(size)
    operation = next((f for kind, f in OPERATIONS.items() if isinstance(size, kind)), None)
    has_fraction = any(part.is_Rational and not part.is_Integer for part in size.args)
    if operation is None or has_fraction:
        return int(size.subs({named(name): value for name, value in values.items()}))
    return functools.reduce(operation, [evaluate(part, values) for part in size.args])


OPERATIONS: dict[type, Callable[[int, int], int]] = {
    sympy.Add: operator.add,
    sympy.Mul: operator.mul,
    sympy.Pow: operator.pow,
    FloorDiv: operator.floordiv,
    sympy.Mod: operator.mod,
    sympy.Max: max,
    sympy.Min: min,
}


def product(sizes: tuple[Size, ...] | list[Size]) -> Size:
    """The product of sizes; 1 for none."""
    result: Size = 1
    for size in sizes:
        result = result * size
    return simplify(result)


def ceil_div(size: Size, divisor: int) -> Size:
    """`size / divisor`, rounded up."""
    if isinstance(size, int):
        return -(-size // divisor)
    return FloorDiv(size + divisor - 1, sympy.Integer(divisor))


def text(size: Size) -> str:
    """The canonical text of a size: `384`, `batch`, `8*sequence`."""
    return str(size).replace(" ", "")


def parse(expression: str) -> Size:
    """Read back what `text` wrote.

    Raises:
        ValueError: If it is not arithmetic over names and numbers.
    """
    if expression.isdigit():
        return int(expression)
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-*/(), ")
    if not expression or set(expression) - allowed:
        raise ValueError(f"not a size: {expression!r}")
    return simplify(_parse_terms(expression))


def _parse_terms(expression: str) -> sympy.Expr:
    import ast

    operators = {ast.Add: sympy.Add, ast.Mult: sympy.Mul, ast.Pow: sympy.Pow}
    functions = {"floor": sympy.floor, "Max": sympy.Max, "Min": sympy.Min, "Mod": sympy.Mod}

    def build(node: ast.expr) -> sympy.Expr:
        match node:
            case ast.Constant(value=int(number)):
                return sympy.Integer(number)
            case ast.Name(id=name):
                return named(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -build(operand)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return build(left) - build(right)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                return build(left) / build(right)
            case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
                return FloorDiv(build(left), build(right))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in operators:
                return operators[type(op)](build(left), build(right))
            case ast.Call(func=ast.Name(id=name), args=args) if name in functions:
                return functions[name](*[build(arg) for arg in args])
        raise ValueError(f"not a size: {expression!r}")

    try:
        return build(ast.parse(expression, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"not a size: {expression!r}") from error
