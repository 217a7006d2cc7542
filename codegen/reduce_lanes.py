"""Reductions in registers: several running vectors, then one number."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tvm import tirx

from effc.codegen.dtypes import held
from effc.codegen.operands import larger, smaller, truth
from effc.codegen.tir import Builder, Expr, cast, const, lanes_of, load, with_lanes

Combine = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class Reduction:
    """How values are combined.

    Attributes:
        combine: An associative, commutative function.
        neutral: The value that changes nothing, by element type.
        is_logical: Whether values only count as zero or not zero.
    """

    combine: Combine
    neutral: Callable[[str], float]
    is_logical: bool = False

    def term(self, value: Expr, dtype: torch.dtype) -> Expr:
        """A value as a term of a total of a type."""
        as_truth = self.is_logical or dtype == torch.bool
        return cast(truth(value) if as_truth else value, total_type(dtype))


def _largest(dtype: str) -> float:
    if dtype.startswith("float"):
        return float("inf")
    bits = int("".join(filter(str.isdigit, dtype)))
    return 2**bits - 1 if dtype.startswith("u") else 2 ** (bits - 1) - 1


def _smallest(dtype: str) -> float:
    if dtype.startswith("u"):
        return 0
    return -_largest(dtype) if dtype.startswith("float") else -_largest(dtype) - 1


SUM = Reduction(lambda x, y: x + y, lambda dtype: 0)
PRODUCT = Reduction(lambda x, y: x * y, lambda dtype: 1)
MAXIMUM = Reduction(larger, _smallest)
MINIMUM = Reduction(smaller, _largest)
LARGEST_NUMBER = Reduction(tirx.Max, _smallest)  # NaN may be lost
ANY = Reduction(larger, _smallest, is_logical=True)
ALL = Reduction(smaller, _largest, is_logical=True)
REDUCTIONS = {
    "aten.sum.dim_IntList": SUM,
    "aten.mean.dim": SUM,
    "aten.amax.default": MAXIMUM,
    "aten.amin.default": MINIMUM,
}


def total_type(dtype: torch.dtype) -> str:
    """The type totals are kept in: predicates as bytes, which vectors can be made of."""
    return "uint8" if dtype == torch.bool else held(dtype)


def as_value(total: Expr, dtype: torch.dtype) -> Expr:
    """The register form of a total."""
    return truth(total) if dtype == torch.bool else total


class Totals:
    """Running totals of one reduction: `ways` vectors and, where tails are single, one number.

    Args:
        b: Where statements go.
        kind: How to combine.
        dtype: The type of totals.
        lanes: Elements of a vector.
        ways: How many independent vectors, to hide the latency of combining.
    """

    def __init__(self, b: Builder, kind: Reduction, dtype: str, lanes: int, ways: int) -> None:
        self.b, self.kind, self.dtype, self.lanes, self.ways = b, kind, dtype, lanes, ways
        self.vectors = b.local(dtype, lanes * ways, "totals")
        self.single = b.local(dtype, 1, "single")
        start = kind.neutral(dtype)
        for way in range(ways):
            b.store(self.vectors, const(start, with_lanes(dtype, lanes)), way * lanes)
        b.store(self.single, const(start, dtype), 0)

    def add(self, value: Expr, way: int = 0, valid: Expr | None = None) -> None:
        """Combine a vector or a number; lanes that are not `valid` do not count."""
        if lanes_of(value) == 1:
            before = self.b.let(load(self.single, 0))
            self.b.store(self.single, self.kind.combine(before, value), 0)
            return
        if valid is not None:
            neutral = const(self.kind.neutral(self.dtype), with_lanes(self.dtype, self.lanes))
            value = tirx.Select(valid, value, neutral)
        at = way * self.lanes
        before = self.b.let(load(self.vectors, at, self.lanes))
        self.b.store(self.vectors, self.kind.combine(before, value), at)

    def result(self) -> Expr:
        """Everything combined to one number."""
        total = load(self.vectors, 0, self.lanes)
        for way in range(1, self.ways):
            more = load(self.vectors, way * self.lanes, self.lanes)
            total = self.b.let(self.kind.combine(self.b.let(total), more))
        one = across_lanes(self.b, self.kind, self.b.let(total), self.dtype)
        return self.b.let(self.kind.combine(one, load(self.single, 0)))


def across_lanes(b: Builder, kind: Reduction, vector: Expr, dtype: str) -> Expr:
    """Combine the lanes of a vector by halves."""
    lanes = lanes_of(vector)
    memory = b.local(dtype, lanes, "halves")
    b.store(memory, vector, 0)
    while lanes > 1:
        lanes //= 2
        half = kind.combine(b.let(load(memory, 0, lanes)), load(memory, lanes, lanes))
        b.store(memory, half, 0)
    return load(memory, 0)
