"""The second stage of attention: scores, softmax and weighted sums of a tile of queries."""

import math
from collections.abc import Iterator

import torch
from torch import fx
from tvm import tirx

from effc.codegen.access import Access
from effc.codegen.dtypes import from_memory, stored
from effc.codegen.epilogue import Epilogue
from effc.codegen.evaluate import Evaluator, Point, flat_index
from effc.codegen.families.attention_pack import Packed
from effc.codegen.families.attention_problem import Problem, key_vectors
from effc.codegen.families.elementwise import unravel
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Stage
from effc.codegen.reduce_lanes import LARGEST_NUMBER, SUM, Totals
from effc.codegen.region import Region
from effc.codegen.tir import (
    Expr,
    const,
    index,
    load,
    load_masked,
    mask,
    splat,
    with_lanes,
)
from effc.codegen.vector_math import exp
from effc.codegen.vectors import Run, Vectors
from effc.ir.symbols import Size, ceil_div, product, simplify

FLOAT_NBYTES = 4
MAX_ROWS = 6


class Attention:
    """The second stage."""

    def __init__(
        self,
        region: Region,
        anchor: fx.Node,
        problem: Problem,
        isa: Isa,
        name: str,
        symbols: tuple[str, ...],
    ) -> None:
        self.region, self.anchor, self.problem, self.isa = region, anchor, problem, isa
        self.function = FunctionBuilder(name, symbols)
        self.b = self.function.builder
        self.inputs = [
            self.function.param("input", i, stored(a.dtype)) for i, a in enumerate(region.inputs)
        ]
        self.outputs = [
            self.function.param("output", i, stored(a.dtype)) for i, a in enumerate(region.outputs)
        ]
        self.sizes = Packed.of(region, problem, isa)
        self.keys = self.function.param("temporary", "keys", self.sizes.dtype)
        self.scores = self.function.param("scratch", 0, "float32")
        self.query: Access = region.inputs[problem.query]
        self.value: Access = region.inputs[problem.value]
        self.length, self.source_length = self.query.shape[-2], self.value.shape[-2]
        self.features, self.columns = self.query.shape[-1], self.value.shape[-1]
        self.domain = region.shape(anchor)
        self.width = self.sizes.width
        self.vectors = Vectors(isa.lanes, isa.has_masks)
        self.rows = self._tile_rows()
        inner = {problem.query, problem.key, problem.value, problem.mask}
        accesses = [
            a if i in inner else a.aligned_to(self.domain) for i, a in enumerate(region.inputs)
        ]
        evaluator = Evaluator(region, self.b, self.inputs, accesses, pointwise=True)
        self.epilogue = Epilogue(anchor, evaluator, self.outputs, region.outputs, isa.has_masks)

    def _tile_rows(self) -> int:
        """Queries of a tile: the number up to six that wastes least."""
        length = self.length
        if not isinstance(length, int):
            return MAX_ROWS
        most = min(MAX_ROWS, length)
        return min(range(most, 0, -1), key=lambda rows: -(-length // rows) * rows + 8 / rows)

    def scratch(self) -> Size:
        """Bytes of scores per thread."""
        return simplify(self._row_stride() * self.rows * FLOAT_NBYTES)

    def _row_stride(self) -> Size:
        return simplify(ceil_div(self.source_length, self.width) * self.width)

    def stage(self) -> Stage:
        """Emit the loops over tiles of queries."""
        b = self.b
        outer: list[Size] = [*self.domain[:-2], ceil_div(self.length, self.rows)]
        begin, end = self.function.task_range
        with b.loop(begin, end, "task") as task:
            *place, tile = unravel(b, task, outer)
            self.place = tuple(place)
            length, rows = b.size(self.length), index(self.rows)
            if isinstance(self.length, int):
                self._tile(b.let(tirx.Min(tile * rows, length - rows)), self.rows)
            else:
                enough = length >= rows
                with b.when(enough):
                    self._tile(b.let(tirx.Min(tile * rows, length - rows)), self.rows)
                with b.otherwise(enough), b.loop(index(0), length, "query") as query:
                    self._tile(query, 1)
        return self.function.close(product(outer))

    def _tile(self, first: Expr, rows: int) -> None:
        """Attend from the queries `first..first + rows`."""
        b = self.b
        limit = b.size(self.source_length)
        if self.problem.is_causal:
            limit = b.let(tirx.Min(first + index(rows), limit))
        self._products(first, rows, limit)
        factors = [self._softmax(first, row, limit) for row in range(rows)]
        self._weighted_sums(first, rows, limit, factors)

    def _key_place(self) -> tuple[Expr, ...]:
        """Outer coordinates of the keys: grouped queries share a head."""
        if self.problem.repeats == 1:
            return self.place
        head = self.b.let(tirx.Div(self.place[-1], index(self.problem.repeats)))
        return (*self.place[:-1], head)

    def _products(self, first: Expr, rows: int, limit: Expr) -> None:
        """Scores of the tile with every panel of keys, not scaled yet."""
        b, lanes, width = self.b, self.isa.lanes, self.width
        source, stride = self.inputs[self.problem.query], b.size(self.query.strides[-2])
        base = b.let(flat_index(b, self.query, Point((*self.place, first, index(0)))))
        panel_size = index(self.sizes.features * width)
        panel_base = b.let(self._head() * b.size(self.sizes.panels) * panel_size)
        used = b.let(tirx.Div(limit + index(width - 1), index(width)))
        with b.loop(index(0), used, "panel") as panel:
            totals = b.local("float32", rows * width, "score")
            for place in range(0, rows * width, lanes):
                b.store(totals, const(0.0, with_lanes("float32", lanes)), place)
            here = b.let(panel_base + panel * panel_size)
            for e, is_single in self._features():
                keys = [
                    b.let(load(self.keys, here + e * index(width) + index(v * lanes), lanes))
                    for v in range(key_vectors(self.isa))
                ]
                for row in range(rows):
                    feature = self._feature(source, base + stride * index(row), e, is_single)
                    self._accumulate(totals, row * width, b.let(feature), keys)
            for row in range(rows):
                for v in range(key_vectors(self.isa)):
                    at = self._score(row, panel * index(width) + index(v * lanes))
                    b.store(self.scores, load(totals, row * width + v * lanes, lanes), at)

    def _accumulate(self, totals: tirx.Buffer, at: int, factor: Expr, vectors: list[Expr]) -> None:
        lanes = self.isa.lanes
        for number, vector in enumerate(vectors):
            place = at + number * lanes
            total = self._multiplied(factor, vector, load(totals, place, lanes))
            self.b.store(totals, total, place)

    def _features(self) -> Iterator[tuple[Expr, bool]]:
        """Loop over a query's features; says which of them stand alone in a pair."""
        with self.b.loop(0, self.features, "e") as e:
            yield e, False

    def _feature(self, source: tirx.Buffer, line: Expr, e: Expr, is_single: bool) -> Expr:
        """A feature of a query in all lanes."""
        return splat(from_memory(load(source, line + e), self.query.dtype), self.isa.lanes)

    def _multiplied(self, factor: Expr, vector: Expr, total: Expr) -> Expr:
        return self.isa.multiply_add(factor, vector, total)

    def _head(self) -> Expr:
        """Number of the key head, counted over all outer dimensions."""
        flat, key = index(0), self.region.inputs[self.problem.key]
        for coordinate, size in zip(self._key_place(), key.shape[:-2], strict=True):
            flat = flat * self.b.size(size) + coordinate
        return self.b.let(flat)

    def _score(self, row: int, position: Expr) -> Expr:
        return index(row) * self.b.size(self._row_stride()) + position

    def _softmax(self, first: Expr, row: int, limit: Expr) -> Expr:
        """Turn a row of scores into exponentials; return one over their sum (0 for no keys)."""
        b, lanes = self.b, self.isa.lanes
        run = Run(index(0), limit, None if self.problem.is_causal else self.source_length)
        largest = Totals(b, LARGEST_NUMBER, "float32", lanes, 1)  # NaN stays in the exponentials

        def scale(position: Expr, count: int, valid: Expr | None) -> None:
            score = b.let(self._masked(first, row, position, count, valid))
            b.store(self.scores, score, self._score(row, position))
            largest.add(score, 0, None if valid is None else mask(valid, count))

        self.vectors.cover(b, run, scale)
        top = largest.result()
        top = b.let(
            tirx.Select(tirx.EQ(top, const(-math.inf, "float32")), const(0.0, "float32"), top)
        )
        total = Totals(b, SUM, "float32", lanes, 1)

        def grow(position: Expr, count: int, valid: Expr | None) -> None:
            score = load(self.scores, self._score(row, position), count)
            value = exp(b, b.let(score - splat(top, count)))
            self._keep(row, position, value, valid)
            total.add(value, 0, None if valid is None else mask(valid, count))

        self.vectors.cover(b, run, grow)
        sum_ = total.result()
        zero, one = const(0.0, "float32"), const(1.0, "float32")
        return b.let(tirx.Select(tirx.EQ(sum_, zero), zero, one / sum_))

    def _keep(self, row: int, position: Expr, value: Expr, valid: Expr | None) -> None:
        """Store exponentials of a row for the second product."""
        self.b.store(self.scores, value, self._score(row, position))

    def _masked(
        self, first: Expr, row: int, position: Expr, lanes: int, valid: Expr | None
    ) -> Expr:
        """Scaled scores of a row at some keys, -infinity where the query must not look."""
        b, problem = self.b, self.problem
        score = load(self.scores, self._score(row, position), lanes)
        score = score * const(problem.scale, with_lanes("float32", lanes))
        lowest = const(-math.inf, with_lanes("float32", lanes))
        if problem.is_causal:
            keys = splat(position, lanes)
            if lanes > 1:
                keys = tirx.Ramp(position, index(1), lanes)
            score = tirx.Select(keys <= splat(first + index(row), lanes), score, lowest)
        if problem.mask is None:
            return score
        node = self.region.placeholders[problem.mask]
        shape = (*self.domain[:-2], self.length, self.source_length)
        access = self.region.inputs[problem.mask].aligned_to(shape)
        reader = Evaluator(
            self.region, b, self.inputs,
            [access if i == problem.mask else a for i, a in enumerate(self.region.inputs)],
        )  # fmt: skip
        coordinates = (*self.place, b.let(first + index(row)), position)
        lane_dim = len(shape) - 1 if lanes > 1 else None
        value = reader.load(node, Point(coordinates, lane_dim, lanes, valid))
        if access.dtype == torch.bool:
            return tirx.Select(splat(value, lanes), score, lowest)
        return score + splat(value, lanes)

    def _weighted_sums(self, first: Expr, rows: int, limit: Expr, factors: list[Expr]) -> None:
        """Multiply the tile's exponentials with the values, scale, and run the epilogue."""
        block = self.isa.lanes * key_vectors(self.isa)
        for start in range(0, self.columns, block):
            size = min(block, self.columns - start)
            self._column_block(first, rows, limit, factors, start, size)

    def _column_block(
        self, first: Expr, rows: int, limit: Expr, factors: list[Expr], start: int, size: int
    ) -> None:
        b, lanes = self.b, self.isa.lanes
        parts = [(at, min(lanes, size - at)) for at in range(0, size, lanes)]
        totals = b.local("float32", rows * len(parts) * lanes, "sum")
        for place in range(rows * len(parts)):
            b.store(totals, const(0.0, with_lanes("float32", lanes)), place * lanes)
        self._sum_values(rows, limit, start, parts, totals)
        for row in range(rows):
            for number, (at, valid) in enumerate(parts):
                total = load(totals, (row * len(parts) + number) * lanes, lanes)
                value = b.let(total * splat(factors[row], lanes))
                query = b.let(first + index(row))
                coordinates = (*self.place, query, index(start + at))
                self.epilogue.finish(value, coordinates, len(self.domain) - 1, valid)

    def _sum_values(
        self, rows: int, limit: Expr, start: int, parts: list[tuple[int, int]], totals: tirx.Buffer
    ) -> None:
        """Add the values of every key to the totals, each times its row's exponential."""
        b, lanes, access = self.b, self.isa.lanes, self.value
        source = self.inputs[self.problem.value]
        base = b.let(flat_index(b, access, Point((*self._key_place(), index(0), index(start)))))
        with b.loop(index(0), limit, "key") as key:
            line = b.let(base + key * b.size(access.strides[-2]))
            values = [b.let(self._value(source, line, at, valid)) for at, valid in parts]
            for row in range(rows):
                weight = b.let(splat(load(self.scores, self._score(row, key)), lanes))
                self._accumulate(totals, row * len(parts) * lanes, weight, values)

    def _value(self, source: tirx.Buffer, line: Expr, at: int, valid: int) -> Expr:
        """A vector of values; lanes past the last column hold anything."""
        lanes = self.isa.lanes
        if valid == lanes:
            found = load(source, line + index(at), lanes)
        else:
            found = load_masked(source, line + index(at), lanes, index(valid))
        return from_memory(found, self.value.dtype)
