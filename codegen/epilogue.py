"""What happens to a vector of an anchor's results: the rest of the region, then the stores."""

from dataclasses import dataclass

from torch import fx
from tvm import tirx

from effc.codegen.access import Access
from effc.codegen.evaluate import Evaluator, Point
from effc.codegen.narrow import TOGETHER, Narrowing
from effc.codegen.operands import NeedsScalarError
from effc.codegen.tir import Expr, dtype_of, index, lanes_of, load, split_dtype


@dataclass(frozen=True)
class Result:
    """A vector of an anchor's values.

    Attributes:
        total: The values.
        coordinates: Where the first lane stands in the domain.
        valid: How many lanes count, where that is known only at run time as an expression.
        number: Which vector of its row it is.
    """

    total: Expr
    coordinates: tuple[Expr, ...]
    valid: int | Expr
    number: int

    @property
    def is_whole(self) -> bool:
        """Whether all lanes count."""
        return isinstance(self.valid, int) and self.valid == lanes_of(self.total)

    def follows(self, other: "Result") -> bool:
        """Whether it continues another one's row, with nothing left out."""
        return self.is_whole and other.is_whole and self.number == other.number + 1

    def point(self, lane_dim: int) -> Point:
        """Where it stands."""
        count = None if self.is_whole else index(self.valid)
        return Point(self.coordinates, lane_dim, lanes_of(self.total), count)


@dataclass(frozen=True)
class Epilogue:
    """Finishes the results of one anchor.

    Attributes:
        anchor: The node whose value the kernel computes.
        evaluator: Computes the rest of the region.
        outputs: Where each result goes.
        accesses: How each result is reached in the kernel's domain.
        has_masks: Whether incomplete vectors can be stored with a mask.
        narrowing: How four vectors become codes of 8 bits together, where the region ends so.
    """

    anchor: fx.Node
    evaluator: Evaluator
    outputs: list[tirx.Buffer]
    accesses: tuple[Access, ...]
    has_masks: bool
    narrowing: Narrowing | None = None

    def finish_all(self, results: list[Result], lane_dim: int) -> None:
        """Compute and store the region's results for all vectors of a tile.

        Args:
            results: The anchor's values, in rows of neighbours.
            lane_dim: The dimension the lanes run along.
        """
        partial = any(not one.is_whole for one in results)
        stride = self.accesses[0].strides[lane_dim]
        if self.narrowing is None or stride != 1 or not self._runs_as_vector(lane_dim, partial):
            self._finish_each(results, lane_dim)
            return
        try:
            for begin in range(0, len(results), TOGETHER):
                self._narrow(self.narrowing, results[begin : begin + TOGETHER], lane_dim)
        except NeedsScalarError:
            self._finish_each(results, lane_dim)

    def _finish_each(self, results: list[Result], lane_dim: int) -> None:
        for one in results:
            self.finish(one.total, one.coordinates, lane_dim, one.valid)

    def _narrow(self, narrowing: Narrowing, results: list[Result], lane_dim: int) -> None:
        """Finish up to four vectors; whole neighbours are stored together."""
        scopes = [self.evaluator.fresh({self.anchor: self._let(one.total)}) for one in results]
        points = [one.point(lane_dim) for one in results]
        sums = [narrowing.sums(*each) for each in zip(scopes, points, strict=True)]
        sums += [sums[-1]] * (TOGETHER - len(sums))
        codes, first = self._let(narrowing.codes(sums)), 0
        while first < len(results):
            count = 1
            while first + count < len(results) and results[first + count].follows(
                results[first + count - 1]
            ):
                count += 1
            scope, point = scopes[first], points[first]
            part = self._let(narrowing.part(codes, first, count))
            wide = point if count == 1 else Point(point.coordinates, lane_dim, lanes_of(part))
            scope.store(self.outputs[0], self.accesses[0], part, wide)
            first += count

    def _let(self, value: Expr) -> Expr:
        return self.evaluator.builder.let(value)

    def finish(
        self, total: Expr, coordinates: tuple[Expr, ...], lane_dim: int, valid: int | Expr
    ) -> None:
        """Compute and store the region's results for the first lanes of a vector.

        Args:
            total: The anchor's value.
            coordinates: Where its first lane stands in the domain.
            lane_dim: The dimension the lanes run along.
            valid: How many lanes count, where that is known only at run time as an expression.
        """
        lanes = lanes_of(total)
        total = self.evaluator.builder.let(total)
        is_whole = isinstance(valid, int) and valid == lanes
        if lanes == 1 or not self._runs_as_vector(lane_dim, not is_whole):
            self._one_by_one(total, coordinates, lane_dim, valid)
            return
        count = None if is_whole else index(valid) if isinstance(valid, int) else valid
        try:
            self._store(total, Point(coordinates, lane_dim, lanes, count))
        except NeedsScalarError:
            self._one_by_one(total, coordinates, lane_dim, valid)

    def _runs_as_vector(self, lane_dim: int, is_partial: bool) -> bool:
        """Whether all operands and results can be reached as vectors along a dimension."""
        touched = [
            access.strides[lane_dim]
            for node, access in zip(
                self.evaluator.region.placeholders, self.evaluator.accesses, strict=True
            )
            if len(access.shape) > lane_dim and any(u is not self.anchor for u in node.users)
        ]
        strides = [*touched, *(access.strides[lane_dim] for access in self.accesses)]
        if is_partial:
            return self.has_masks and all(stride in (0, 1) for stride in strides)
        return all(isinstance(stride, int) for stride in strides)

    def _one_by_one(
        self, total: Expr, coordinates: tuple[Expr, ...], lane_dim: int, valid: int | Expr
    ) -> None:
        b, lanes = self.evaluator.builder, lanes_of(total)
        if lanes == 1:
            self._store(total, Point(coordinates))
            return
        spilled = b.local(split_dtype(dtype_of(total))[0], lanes, "lanes")
        b.store(spilled, total, 0)

        def store(lane: int | Expr) -> None:
            moved = list(coordinates)
            moved[lane_dim] = b.let(coordinates[lane_dim] + index(lane))
            self._store(b.let(load(spilled, lane)), Point(tuple(moved)))

        if not isinstance(valid, int):
            with b.loop(index(0), valid, "lane") as lane:
                store(lane)
            return
        for number in range(valid):
            store(number)

    def _store(self, total: Expr, point: Point) -> None:
        scope = self.evaluator.fresh({self.anchor: total})
        results = scope.region.results
        for node, buffer, access in zip(results, self.outputs, self.accesses, strict=True):
            scope.store(buffer, access, scope.value(node, point), point)
