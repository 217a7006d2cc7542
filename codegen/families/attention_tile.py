"""The second stage of attention: tiles of queries against blocks of keys, with an online softmax.

The exponentials of a block are relative to the block's own largest score. What a tile has summed up
so far is kept relative to the largest score so far, and rescaled when a block brings a larger one.
Several tiles go through the blocks together, so that a block of keys and values stays in cache.
"""

import math
from dataclasses import dataclass

from torch import fx
from tvm import tirx

from effc.codegen.epilogue import Epilogue
from effc.codegen.evaluate import Evaluator
from effc.codegen.families.attention_factors import KINDS
from effc.codegen.families.attention_frame import Frame
from effc.codegen.families.attention_problem import Problem, key_vectors
from effc.codegen.families.attention_scores import Scores
from effc.codegen.families.elementwise import unravel
from effc.codegen.kernel import Stage
from effc.codegen.reduce_lanes import SUM, across_lanes
from effc.codegen.region import Region
from effc.codegen.schedule import Schedule, Space, ordered
from effc.codegen.tir import Expr, cast, const, index, load, splat, with_lanes
from effc.codegen.vector_math import exp2
from effc.ir.symbols import Size, ceil_div, product

FLOAT_NBYTES = 4
MAX_ROWS = 6
MAX_TILES, TILES = 8, (2, 4, 8, 16)


@dataclass(frozen=True)
class AttentionSchedule(Schedule):
    """How queries are grouped.

    Attributes:
        rows: Queries of a tile.
        tiles: Tiles that go through the blocks of keys together.
    """

    rows: int
    tiles: int


def is_single_block(keys: Size, problem: Problem) -> bool:
    """Whether all keys are one block."""
    return isinstance(keys, int) and keys <= problem.block


def default_of(region: Region, problem: Problem) -> AttentionSchedule:
    """The number of queries up to six that wastes least; keys in one block need no groups."""
    length, keys = (region.inputs[p].shape[-2] for p in (problem.query, problem.value))
    rows = MAX_ROWS
    if isinstance(length, int):
        fits = range(min(MAX_ROWS, length), 0, -1)
        rows = min(fits, key=lambda count: -(-length // count) * count + 8 / count)
    return AttentionSchedule(rows, 1 if is_single_block(keys, problem) else MAX_TILES)


def schedules(region: Region, problem: Problem) -> Space:
    """Every schedule, the default first."""
    default, length = default_of(region, problem), region.inputs[problem.query].shape[-2]
    most = min(MAX_ROWS, length) if isinstance(length, int) else MAX_ROWS
    numbers = (1,) if default.tiles == 1 else TILES
    rows = range(most, 0, -1)
    return ordered([AttentionSchedule(r, tiles) for r in rows for tiles in numbers], default)


class Attention:
    """Writes the second stage."""

    def __init__(self, frame: Frame, anchor: fx.Node, schedule: AttentionSchedule) -> None:
        self.frame, self.b, self.isa = frame, frame.b, frame.isa
        self.lanes, self.block = frame.isa.lanes, frame.problem.block
        self.columns = frame.sizes.columns
        self.rows, self.tiles = schedule.rows, schedule.tiles
        self.is_single = is_single_block(frame.source_length, frame.problem)
        self.memory = frame.function.param("scratch", 0, "float32")
        self.factors = KINDS[frame.problem.arithmetic](frame)
        self.scores = Scores(frame, self.factors, self.memory)
        self.weights, self.origin = self.memory, 0
        if self.factors.weight != "float32":
            self.weights = frame.function.param("scratch", 1, self.factors.weight)
            self.origin = self._floats() * FLOAT_NBYTES // self._weight_nbytes()
        self.epilogue = self._epilogue(anchor)

    def _epilogue(self, anchor: fx.Node) -> Epilogue:
        frame, problem = self.frame, self.frame.problem
        inner = {problem.query, problem.key, problem.value, problem.mask}
        accesses = [
            a if i in inner else a.aligned_to(frame.domain)
            for i, a in enumerate(frame.region.inputs)
        ]
        evaluator = Evaluator(frame.region, self.b, frame.inputs, accesses, pointwise=True)
        return Epilogue(anchor, evaluator, frame.outputs, frame.region.outputs, self.isa.has_masks)

    def _weight_nbytes(self) -> int:
        return {"float32": 4, "uint16": 2, "uint8": 1}[self.factors.weight]

    def _floats(self) -> int:
        """float32 numbers of a thread's memory: scores, and the state of every tile."""
        state = 0 if self.is_single else self.tiles * (self._state_size() + self.lanes)
        return self.rows * self.block + state

    def _state_size(self) -> int:
        return self.rows * (self.columns + self.lanes)

    def scratch(self) -> int:
        """Bytes of memory per thread."""
        return self._floats() * FLOAT_NBYTES + self.rows * self.block * self._weight_nbytes()

    def stage(self) -> Stage:
        """Emit the loops over groups of tiles."""
        b, frame, rows = self.b, self.frame, self.rows
        outer: list[Size] = [*frame.domain[:-2], ceil_div(frame.length, rows * self.tiles)]
        begin, end = frame.function.task_range
        with b.loop(begin, end, "task") as task:
            *place, group = unravel(b, task, outer)
            frame.place = tuple(place)
            self.scores.begin()
            if isinstance(frame.length, int):
                self._group(group)
            else:
                enough = b.size(frame.length) >= index(rows)
                with b.when(enough):
                    self._group(group)
                with b.otherwise(enough), b.loop(0, b.size(frame.length), "query") as query:
                    self._attend(_Tiles(query, 1, query), 1)
        return frame.function.close(product(outer))

    def _group(self, group: Expr) -> None:
        b, length = self.b, self.frame.length
        number = b.let(group * index(self.tiles))
        last = b.let(b.size(length) - index(self.rows))
        if self.tiles == 1:
            self._attend(_Tiles(number, 1, last), self.rows)
            return
        left = b.size(ceil_div(length, self.rows)) - number
        self._attend(_Tiles(number, b.let(tirx.Min(left, index(self.tiles))), last), self.rows)

    def _attend(self, tiles: "_Tiles", rows: int) -> None:
        """Attend from some tiles of queries."""
        b = self.b
        if self.is_single:
            with b.loop(0, tiles.count, "tile") as tile:
                first = b.let(tiles.first(tile, rows))
                self._at_once(first, rows)
            return
        with b.loop(0, tiles.count, "tile") as tile:
            self._clear(tile)
        last = b.let(tiles.first(index(tiles.count) - index(1), rows))
        limit = self.scores.limit(last, rows)
        blocks = tirx.Div(limit + index(self.block - 1), index(self.block))
        with b.loop(0, b.let(blocks), "block") as block:
            start = b.let(block * index(self.block))
            with b.loop(0, tiles.count, "tile") as tile:
                first = b.let(tiles.first(tile, rows))
                limit = self.scores.limit(first, rows)
                with b.when(start < limit):
                    count = b.let(tirx.Min(limit - start, index(self.block)))
                    self._add_block(tile, first, rows, start, count)
        with b.loop(0, tiles.count, "tile") as tile:
            self._finish_tile(tile, b.let(tiles.first(tile, rows)), rows)

    def _at_once(self, first: Expr, rows: int) -> None:
        """Attend to all keys in one block."""
        start = index(0)
        count = self.scores.limit(first, rows)
        tops = [self._finite(top) for top in self.scores.block(first, rows, start, count)]
        sums = self.scores.exponentials(tops, count, self.weights, self.origin)
        inverses = [self._inverse(sum_) for sum_ in sums]
        for column, parts in self._column_blocks():
            totals = self._weighted(rows, start, count, column, parts)
            for row in range(rows):
                for number, (at, valid) in enumerate(parts):
                    place = (row * len(parts) + number) * self.lanes
                    total = cast(load(totals, place, self.lanes), "float32")
                    self._finish(first, row, column + at, valid, total, inverses[row])

    def _finite(self, top: Expr) -> Expr:
        """The largest score of a row; 0 if the query sees no key."""
        lowest, zero = const(-math.inf, "float32"), const(0.0, "float32")
        return self.b.let(tirx.Select(tirx.EQ(top, lowest), zero, top))

    def _inverse(self, sums: Expr) -> Expr:
        """One over the sum of a row's weights; 0 if the query sees no key."""
        b = self.b
        total = b.let(across_lanes(b, SUM, sums, "float32"))
        zero, one = const(0.0, "float32"), const(1.0, "float32")
        return b.let(tirx.Select(tirx.EQ(total, zero), zero, one / total))

    def _column_blocks(self) -> list[tuple[int, list[tuple[int, int]]]]:
        """First column of every register tile, and its vectors with their valid lanes."""
        size, columns, lanes = self.lanes * key_vectors(self.isa), self.frame.columns, self.lanes
        return [
            (start, [(at, min(lanes, columns - start - at))
                     for at in range(0, min(size, columns - start), lanes)])
            for start in range(0, columns, size)
        ]  # fmt: skip

    def _weighted(
        self, rows: int, start: Expr, count: Expr, column: int, parts: list[tuple[int, int]]
    ) -> tirx.Buffer:
        """Sums of the values of a block's keys, each times its row's weight."""
        b, lanes, depth, factors = self.b, self.lanes, self.frame.sizes.depth, self.factors
        totals = b.local(factors.total, rows * len(parts) * lanes, "sum")
        for place in range(rows * len(parts)):
            b.store(totals, const(0, with_lanes(factors.total, lanes)), place * lanes)
        base = b.let(factors.value_base(start) + index(column))
        steps = b.let(tirx.Div(count + index(depth - 1), index(depth)))
        with b.loop(index(0), steps, "word") as step:
            line = b.let(base + step * factors.value_stride())
            values = [b.let(factors.value(line, at, valid)) for at, valid in parts]
            for row in range(rows):
                where = index(self.origin) + self.scores.at(row, step * index(depth))
                weight = b.let(factors.weights(self.weights, where))
                for number, value in enumerate(values):
                    place = (row * len(parts) + number) * lanes
                    total = factors.multiplied(weight, value, load(totals, place, lanes))
                    b.store(totals, total, place)
        return totals

    def _finish(
        self, first: Expr, row: int, column: int, valid: int, total: Expr, inverse: Expr
    ) -> None:
        b, frame = self.b, self.frame
        value = b.let(self.factors.finished(b.let(total), inverse))
        coordinates = (*frame.place, b.let(first + index(row)), index(column))
        self.epilogue.finish(value, coordinates, len(frame.domain) - 1, valid)

    def _clear(self, tile: Expr) -> None:
        """Begin the state of a tile: no weights, and the lowest score."""
        b, lanes = self.b, self.lanes
        base = self._state(tile)
        with b.loop(0, self._state_size() // lanes, "vector") as number:
            zero = const(0.0, with_lanes("float32", lanes))
            b.store(self.memory, zero, base + number * index(lanes))
        b.store(self.memory, const(-math.inf, with_lanes("float32", lanes)), self._tops(tile))

    def _state(self, tile: Expr) -> Expr:
        """Where a tile keeps its weighted sums, and then the sums of its weights."""
        return index(self.rows * self.block) + tile * index(self._state_size())

    def _tops(self, tile: Expr) -> Expr:
        """Where a tile keeps the largest score so far, a lane per row."""
        states = self.rows * self.block + self.tiles * self._state_size()
        return index(states) + tile * index(self.lanes)

    def _add_block(self, tile: Expr, first: Expr, rows: int, start: Expr, count: Expr) -> None:
        """Take a block of keys into a tile's state."""
        b, lanes, memory = self.b, self.lanes, self.memory
        tops = self.scores.block(first, rows, start, count)
        shifts = [self._finite(top) for top in tops]
        sums = self.scores.exponentials(shifts, count, self.weights, self.origin)
        kept, shares = self._rescale(tile, tops)
        base = b.let(self._state(tile))
        counts = b.let(base + index(self.rows * self.columns))
        for row in range(rows):
            place = counts + index(row * lanes)
            before = load(memory, place, lanes) * kept[row]
            b.store(memory, self.isa.multiply_add(sums[row], shares[row], b.let(before)), place)
        for column, parts in self._column_blocks():
            totals = self._weighted(rows, start, count, column, parts)
            for row in range(rows):
                for number, (at, _) in enumerate(parts):
                    total = load(totals, (row * len(parts) + number) * lanes, lanes)
                    place = base + index(row * self.columns + column + at)
                    before = b.let(load(memory, place, lanes) * kept[row])
                    added = b.let(cast(total, "float32"))
                    b.store(memory, self.isa.multiply_add(added, shares[row], before), place)

    def _rescale(self, tile: Expr, tops: list[Expr]) -> tuple[list[Expr], list[Expr]]:
        """Per row, in all lanes: the factors of what was summed up so far, and of a block."""
        b, lanes = self.b, self.lanes
        found = b.local("float32", lanes, "tops")
        b.store(found, const(-math.inf, with_lanes("float32", lanes)), 0)
        for row, top in enumerate(tops):
            b.store(found, top, row)
        now, before = (
            b.let(load(found, 0, lanes)),
            b.let(load(self.memory, self._tops(tile), lanes)),
        )
        highest = b.let(tirx.Max(before, now))
        b.store(self.memory, highest, self._tops(tile))
        lowest = const(-math.inf, with_lanes("float32", lanes))
        zero = const(0.0, with_lanes("float32", lanes))
        highest = b.let(tirx.Select(tirx.EQ(highest, lowest), zero, highest))
        factors = []
        for top in (before, now):
            memory = b.local("float32", lanes, "factor")
            b.store(memory, exp2(b, b.let(top - highest)), 0)
            factors.append([b.let(splat(load(memory, r), lanes)) for r in range(len(tops))])
        return factors[0], factors[1]

    def _finish_tile(self, tile: Expr, first: Expr, rows: int) -> None:
        """Divide by the sums of weights and run the epilogue."""
        b, lanes, memory = self.b, self.lanes, self.memory
        base = b.let(self._state(tile))
        for row in range(rows):
            counts = base + index(self.rows * self.columns + row * lanes)
            inverse = self._inverse(b.let(load(memory, counts, lanes)))
            for column, parts in self._column_blocks():
                for at, valid in parts:
                    place = base + index(row * self.columns + column + at)
                    total = load(memory, place, lanes)
                    self._finish(first, row, column + at, valid, total, inverse)


class _Tiles:
    """Some neighbouring tiles of queries; the last one overlaps its neighbour if it must.

    Args:
        number: Number of the first tile.
        count: How many.
        last: The first query of the last tile of all.
    """

    def __init__(self, number: Expr, count: int | Expr, last: Expr) -> None:
        self.number, self.count, self.last = number, count, last

    def first(self, tile: Expr, rows: int) -> Expr:
        """The first query of a tile, counted within these."""
        return tirx.Min((self.number + tile) * index(rows), self.last)
