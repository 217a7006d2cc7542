"""Formulas over named numbers: `mul(noise, sqrt(trace))`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from effc.ir.errors import UsageError

Values = NDArray[np.float64]
TINY = 1e-30
UNARY: dict[str, Callable[[Values], Values]] = {
    "sqrt": lambda x: np.sqrt(np.abs(x)),
    "square": lambda x: x * x,
    "log1p": lambda x: np.log1p(np.abs(x)),
}
BINARY: dict[str, Callable[[Values, Values], Values]] = {
    "add": np.add,
    "mul": np.multiply,
    "div": lambda x, y: x / (np.abs(y) + TINY),
    "max": np.maximum,
}
_TOKEN = re.compile(r"\s*(?:(?P<name>\w+)|(?P<mark>[(),]))")


@dataclass(frozen=True)
class Expression:
    """A tree of operators over names.

    Attributes:
        name: Of an operator, or of a number if there are no operands.
        operands: One for a key of `UNARY`, two for one of `BINARY`.
    """

    name: str
    operands: tuple["Expression", ...] = ()

    @classmethod
    def parse(cls, text: str, known: tuple[str, ...]) -> "Expression":
        """Read a formula.

        Args:
            text: Such as `mul(noise, trace)`.
            known: Names of numbers.

        Raises:
            UsageError: If it has another form.
        """
        tokens = [found["name"] or found["mark"] for found in _TOKEN.finditer(text)]
        found, rest = _read(tokens, text)
        if rest:
            raise UsageError(f"{text!r} is no formula: what does {rest[0]!r} mean there?")
        for name in sorted(found.names()):
            if name not in known:
                raise UsageError(f"{text!r}: unknown number {name!r}; there are {', '.join(known)}")
        return found

    def names(self) -> set[str]:
        """The numbers it reads."""
        if not self.operands:
            return {self.name}
        return set().union(*(one.names() for one in self.operands))

    def value(self, numbers: Mapping[str, Values]) -> Values:
        """The formula's value; arrays broadcast."""
        if not self.operands:
            return numbers[self.name]
        values = [one.value(numbers) for one in self.operands]
        if len(values) == 1:
            return UNARY[self.name](values[0])
        return np.asarray(BINARY[self.name](values[0], values[1]))

    @property
    def size(self) -> int:
        """Number of operators and numbers."""
        return 1 + sum(one.size for one in self.operands)

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.operands))
        return f"{self.name}({inside})" if self.operands else self.name


def _read(tokens: list[str], text: str) -> tuple[Expression, list[str]]:
    """The expression at the beginning, and the tokens after it."""
    if not tokens or tokens[0] in "(),":
        raise UsageError(f"{text!r} is no formula: a name is missing")
    name, rest = tokens[0], tokens[1:]
    count = 1 if name in UNARY else 2 if name in BINARY else 0
    operands = []
    for number in range(count):
        if not rest or rest[0] != ("," if number else "("):
            raise UsageError(f"{text!r} is no formula: {name} takes {count} in parentheses")
        found, rest = _read(rest[1:], text)
        operands.append(found)
    if count:
        if not rest or rest[0] != ")":
            raise UsageError(f"{text!r} is no formula: {name} takes {count} in parentheses")
        rest = rest[1:]
    return Expression(name, tuple(operands)), rest
