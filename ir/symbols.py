"""Sizes: integers or arithmetic over named symbols such as `batch` and `sequence`.

torch.export names its symbols `s77`; a program shows the user's names. A *size* here is an `int`
or a `sympy` expression over the user's symbols, so that equal sizes compare equal.
"""

import ast
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
        ValueError: If it is not arithmetic over names and numbers, or too large to be a size.
    """
    if len(expression) > LONGEST_TEXT:
        raise ValueError(f"not a size: {len(expression)} characters")
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-*/(), ")
    if not expression or set(expression) - allowed:
        raise ValueError(f"not a size: {expression!r}")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        if sum(isinstance(node, ast.Call) for node in ast.walk(tree)) > MOST_CALLS:
            raise ValueError(f"not a size: {expression!r}")
        size, _ = _Reader(expression).read(tree)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"not a size: {expression!r}") from error
    return simplify(size)


LONGEST_TEXT, MOST_TERMS, MOST_CALLS, LARGEST_NUMBER = 4096, 1000, 32, (1 << 63) - 1


@dataclass(frozen=True)
class _Reader:
    """Builds a size, and counts the terms it has when it is multiplied out before that is done."""

    expression: str

    def read(self, node: ast.expr) -> tuple[sympy.Expr, int]:
        """The size of a part of the text, and at most how many terms it has."""
        match node:
            case ast.Constant(value=int(number)) if number <= LARGEST_NUMBER:
                return sympy.Integer(number), 1
            case ast.Name(id=name):
                return named(name), 1
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                size, terms = self.read(operand)
                return -size, terms
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(power))):
                size, terms = self.read(left)
                bits = max((abs(int(n)).bit_length() for n in size.atoms(sympy.Integer)), default=1)
                if power > MOST_TERMS or bits * power > MOST_TERMS:
                    raise self._refused()
                return size**power, self._checked(terms**power)
            case ast.BinOp(left=left, op=op, right=right):
                return self._combined(op, self.read(left), self.read(right))
            case ast.Call(func=ast.Name(id=name), args=args):
                return self._called(name, [self.read(arg)[0] for arg in args]), 1
        raise self._refused()

    def _called(self, name: str, sizes: list[sympy.Expr]) -> sympy.Expr:
        match name, sizes:
            case "floor", [size]:
                return sympy.floor(size)
            case "Mod", [size, by] if by != 0:
                return sympy.Mod(size, by)
            case "Max" | "Min", [_, *rest] if len(rest) < MOST_CALLS:
                return (sympy.Max if name == "Max" else sympy.Min)(*sizes)
        raise self._refused()

    def _combined(
        self, op: ast.operator, left: tuple[sympy.Expr, int], right: tuple[sympy.Expr, int]
    ) -> tuple[sympy.Expr, int]:
        match op:
            case ast.Add():
                return left[0] + right[0], self._checked(left[1] + right[1])
            case ast.Sub():
                return left[0] - right[0], self._checked(left[1] + right[1])
            case ast.Mult():
                return left[0] * right[0], self._checked(left[1] * right[1])
            case ast.Div() | ast.FloorDiv() if right[0] != 0:
                is_whole = isinstance(op, ast.FloorDiv)
                return FloorDiv(left[0], right[0]) if is_whole else left[0] / right[0], left[1]
        raise self._refused()

    def _checked(self, terms: int) -> int:
        if terms > MOST_TERMS:
            raise self._refused()
        return terms

    def _refused(self) -> ValueError:
        return ValueError(f"not a size: {self.expression!r}")
