"""Reductions in registers: several running vectors, then one number."""

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from effc.codegen.tir import Builder, Expr, const, lanes_of, load, with_lanes

Combine = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class Reduction:
    """How values are combined.

    Attributes:
        combine: An associative, commutative function.
        neutral: The value that changes nothing, by element type.
    """

    combine: Combine
    neutral: Callable[[str], float]


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
MAXIMUM = Reduction(tirx.Max, _smallest)
MINIMUM = Reduction(tirx.Min, _largest)
REDUCTIONS = {
    "aten.sum.dim_IntList": SUM,
    "aten.mean.dim": SUM,
    "aten.amax.default": MAXIMUM,
    "aten.amin.default": MINIMUM,
}


class Totals:
    """Running totals of one reduction: `ways` vectors and, where tails are single, one number.

    Args:
        b: Where statements go.
        kind: How to combine.
        dtype: Element type.
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
            self.b.store(self.single, self.kind.combine(load(self.single, 0), value), 0)
            return
        if valid is not None:
            neutral = const(self.kind.neutral(self.dtype), with_lanes(self.dtype, self.lanes))
            value = tirx.Select(valid, value, neutral)
        at = way * self.lanes
        before = load(self.vectors, at, self.lanes)
        self.b.store(self.vectors, self.kind.combine(before, value), at)

    def result(self) -> Expr:
        """Everything combined to one number."""
        total = load(self.vectors, 0, self.lanes)
        for way in range(1, self.ways):
            total = self.kind.combine(total, load(self.vectors, way * self.lanes, self.lanes))
        one = across_lanes(self.b, self.kind, self.b.let(total), self.dtype)
        return self.b.let(self.kind.combine(one, load(self.single, 0)))


def across_lanes(b: Builder, kind: Reduction, vector: Expr, dtype: str) -> Expr:
    """Combine the lanes of a vector by halves."""
    lanes = lanes_of(vector)
    memory = b.local(dtype, lanes, "halves")
    b.store(memory, vector, 0)
    while lanes > 1:
        lanes //= 2
        half = kind.combine(load(memory, 0, lanes), load(memory, lanes, lanes))
        b.store(memory, half, 0)
    return load(memory, 0)
