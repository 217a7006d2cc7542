"""Covering a range with vectors and a tail."""

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from effc.codegen.tir import Builder, Expr, index
from effc.ir.symbols import Size

At = Callable[[Expr, int, Expr | None], None]


@dataclass(frozen=True)
class Run:
    """A range of positions.

    Attributes:
        first: First position.
        last: One after the last.
        size: Its length where known when building (or a number with the same remainder), so that
            needless tails are left out; None if nothing is known.
    """

    first: Expr
    last: Expr
    size: Size | None


@dataclass(frozen=True)
class Vectors:
    """How to cover ranges.

    Attributes:
        lanes: Elements of a vector; 1 covers one by one.
        masked: Whether the tail is one masked vector instead of single elements.
    """

    lanes: int
    masked: bool

    def cover(self, b: Builder, run: Run, at: At) -> None:
        """Emit `at(position, lanes, count)` for every vector and the tail.

        `count` is None for whole vectors, else the number of valid lanes.
        """
        if self.lanes == 1:
            self._one_by_one(b, run.first, run.last, at)
            return
        static = run.size if isinstance(run.size, int) else None
        whole = b.let(tirx.Div(run.last - run.first, index(self.lanes)))
        if static is None or static >= self.lanes or static % self.lanes == 0:
            with b.loop(index(0), whole, "v") as v:
                at(b.let(run.first + v * index(self.lanes)), self.lanes, None)
        if static is not None and static % self.lanes == 0:
            return
        done = b.let(run.first + whole * index(self.lanes))
        if not self.masked:
            self._one_by_one(b, done, run.last, at)
            return
        count = b.let(run.last - done) if static is None else index(static % self.lanes)
        with b.when(done < run.last):
            at(done, self.lanes, count)

    def _one_by_one(self, b: Builder, first: Expr, last: Expr, at: At) -> None:
        with b.loop(first, last, "i") as i:
            at(i, 1, None)
