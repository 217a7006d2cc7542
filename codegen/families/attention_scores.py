"""Scores of a tile of queries with a block of keys, and their exponentials, in first-level cache.

Scores are kept in units of log 2, so that an exponential is a power of two.
"""

import math

import torch
from tvm import tirx

from effc.codegen.dtypes import from_memory, stored
from effc.codegen.evaluate import Evaluator, Point
from effc.codegen.families.attention_factors import Floats
from effc.codegen.families.attention_frame import Frame
from effc.codegen.reduce_lanes import LARGEST_NUMBER, across_lanes
from effc.codegen.tir import Expr, cast, const, index, load, splat, with_lanes
from effc.ir.symbols import ceil_div

LOWEST = -math.inf


class Scores:
    """Writes the loops over the keys of a block.

    Args:
        frame: The kernel.
        factors: How it multiplies.
        scores: Memory of `rows x block` scores.
    """

    def __init__(self, frame: Frame, factors: Floats, scores: tirx.Buffer) -> None:
        self.frame, self.factors, self.scores = frame, factors, scores
        self.b, self.lanes, self.width = frame.b, frame.isa.lanes, frame.sizes.width
        self.stride = frame.problem.block
        self.scale: Expr = const(0.0, "float32")
        has_length = isinstance(frame.source_length, int)
        self.is_open = frame.problem.is_causal or not has_length
        self.tail = 0 if self.is_open else frame.source_length % self.width

    def begin(self) -> None:
        """Find the factor of the scores, once per task."""
        factor = self.factors.factor() * const(math.log2(math.e), "float32")
        self.scale = self.b.let(splat(self.b.let(factor), self.lanes))

    def limit(self, first: Expr, rows: int) -> Expr:
        """One after the last key that some query of a tile sees."""
        limit = self.b.size(self.frame.source_length)
        if not self.frame.problem.is_causal:
            return limit
        return self.b.let(tirx.Min(first + index(rows), limit))

    def block(self, first: Expr, rows: int, start: Expr, count: Expr) -> list[Expr]:
        """Compute the scores of `count` keys from `start` on; return the largest of every row."""
        b, lanes = self.b, self.lanes
        tops = b.local("float32", rows * lanes, "top")
        for row in range(rows):
            b.store(tops, const(LOWEST, with_lanes("float32", lanes)), row * lanes)
        tile = _Tile(self, first, rows, start, tops)
        if self.is_open:
            used = tirx.Div(count + index(self.width - 1), index(self.width))
            whole = b.let(tirx.Div(self._seen_by_all(first, start, count), index(self.width)))
            with b.loop(index(0), whole, "panel") as panel:
                tile.panel(panel, self.width // lanes, is_bounded=False)
            with b.loop(whole, b.let(used), "panel") as panel:
                tile.panel(panel, self.width // lanes, is_bounded=True)
        else:
            whole = b.let(tirx.Div(count, index(self.width)))
            with b.loop(index(0), whole, "panel") as panel:
                tile.panel(panel, self.width // lanes, is_bounded=False)
            if self.tail:
                with b.when(whole * index(self.width) < count):
                    tile.panel(whole, ceil_div(self.tail, lanes), is_bounded=True)
        return [
            b.let(across_lanes(b, LARGEST_NUMBER, b.let(load(tops, row * lanes, lanes)), "float32"))
            for row in range(rows)
        ]

    def _seen_by_all(self, first: Expr, start: Expr, count: Expr) -> Expr:
        """How many keys of a block every query of a tile sees."""
        if not self.frame.problem.is_causal:
            return count
        seen = tirx.Max(first + index(1) - start, index(0))
        return self.b.let(tirx.Min(seen, count))

    def at(self, row: int, position: Expr) -> Expr:
        """Where a score is kept; the position counts from the start of the block."""
        return index(row * self.stride) + position

    def exponentials(
        self, tops: list[Expr], count: Expr, weights: tirx.Buffer, origin: int
    ) -> list[Expr]:
        """Store the exponentials of a block's scores relative to `tops`; return their sums.

        Args:
            tops: What to subtract, per row.
            count: Keys of the block.
            weights: Where exponentials go.
            origin: Their first element there; rows are `block` apart.

        Returns:
            A float32 vector per row, whose lanes add up to the sum.
        """
        b, lanes, kind = self.b, self.lanes, self.factors.count
        sums = b.local(kind, len(tops) * lanes, "sum")
        for row in range(len(tops)):
            b.store(sums, const(0, with_lanes(kind, lanes)), row * lanes)
        shifts = [b.let(splat(top, lanes)) for top in tops]

        used = b.let(tirx.Div(count + index(lanes - 1), index(lanes)))
        with b.loop(index(0), used, "vector") as number:
            position = b.let(number * index(lanes))
            for row, shift in enumerate(shifts):
                score = load(self.scores, self.at(row, position), lanes)
                value = self.factors.exponential(b.let(score - shift))
                where = index(origin) + self.at(row, position)
                self.factors.keep(weights, value, where)
                b.store(sums, load(sums, row * lanes, lanes) + value, row * lanes)
        return [b.let(cast(load(sums, row * lanes, lanes), "float32")) for row in range(len(tops))]


class _Tile:
    """The scores of one tile of queries with the panels of one block."""

    def __init__(
        self, scores: Scores, first: Expr, rows: int, start: Expr, tops: tirx.Buffer
    ) -> None:
        self.scores, self.first, self.rows, self.start, self.tops = (
            scores, first, rows, start, tops,
        )  # fmt: skip
        self.frame, self.factors = scores.frame, scores.factors
        self.b, self.lanes, self.width = scores.b, scores.lanes, scores.width
        self.query = self.frame.query_offset(first)
        panels = self.frame.head() * self.b.size(self.frame.sizes.panels)
        self.first_panel = self.b.let(panels + tirx.Div(start, index(self.width)))

    def panel(self, panel: Expr, vectors: int, is_bounded: bool) -> None:
        """Scores of the tile with some vectors of a panel; `panel` counts from the block's."""
        b, lanes, rows, factors = self.b, self.lanes, self.rows, self.factors
        totals = b.local(factors.total, rows * vectors * lanes, "score")
        number = b.let(self.first_panel + panel)
        for v in range(vectors):
            start = b.let(factors.start(number, v))
            for row in range(rows):
                b.store(totals, start, (row * vectors + v) * lanes)
        base = b.let(number * index(self.frame.sizes.features * self.width))
        whole, rest = divmod(self.frame.features, self.frame.sizes.depth)
        with b.loop(0, whole, "feature") as step:
            self._step(base, step, self.frame.sizes.depth, vectors, totals)
        if rest:
            self._step(base, index(whole), rest, vectors, totals)
        for v in range(vectors):
            position = b.let(panel * index(self.width) + index(v * lanes))
            for row in range(rows):
                total = load(totals, (row * vectors + v) * lanes, lanes)
                self._finish(row, position, total, is_bounded)

    def _step(self, base: Expr, step: Expr, count: int, vectors: int, totals: tirx.Buffer) -> None:
        b, factors, lanes = self.b, self.factors, self.lanes
        here = b.let(base + step * index(self.width))
        keys = [b.let(factors.key(here + index(v * lanes))) for v in range(vectors)]
        stride = b.size(self.frame.query.strides[-2])
        for row in range(self.rows):
            word = b.let(factors.feature(self.query + stride * index(row), step, count))
            for v, key in enumerate(keys):
                place = (row * vectors + v) * lanes
                total = load(totals, place, lanes)
                b.store(totals, factors.multiplied(word, key, total), place)

    def _finish(self, row: int, position: Expr, total: Expr, is_bounded: bool) -> None:
        """Scale, mask and store a vector of scores, and keep the largest."""
        b, lanes = self.b, self.lanes
        score = cast(total, "float32") * self.scores.scale
        if self.frame.problem.mask is not None:
            score = self._masked(b.let(score), row, position, is_bounded)
        if is_bounded:
            score = self._bounded(b.let(score), row, position)
        score = b.let(score)
        b.store(self.scores.scores, score, self.scores.at(row, position))
        top = load(self.tops, row * lanes, lanes)
        b.store(self.tops, tirx.Max(top, score), row * lanes)

    def _bounded(self, score: Expr, row: int, position: Expr) -> Expr:
        """-infinity for the keys that a query does not see, or that do not exist."""
        lanes = self.lanes
        last = cast(self.scores.limit(b_row(self.first, row), 1), "int32")
        start = cast(self.b.let(self.start + position), "int32")
        keys = tirx.Ramp(start, const(1, "int32"), lanes)
        lowest = const(LOWEST, with_lanes("float32", lanes))
        return tirx.Select(keys < splat(last, lanes), score, lowest)

    def _masked(self, score: Expr, row: int, position: Expr, is_bounded: bool) -> Expr:
        frame, lanes = self.frame, self.lanes
        position = self.b.let(self.start + position)
        value = self._mask(row, position, is_bounded)
        if frame.region.inputs[frame.problem.mask or 0].dtype == torch.bool:
            lowest = const(LOWEST, with_lanes("float32", lanes))
            return tirx.Select(value, score, lowest)
        unit = const(math.log2(math.e), with_lanes("float32", lanes))
        return frame.isa.multiply_add(self.b.let(value), unit, score)

    def _mask(self, row: int, position: Expr, is_bounded: bool) -> Expr:
        """A vector of the mask; lanes of keys that do not exist hold anything."""
        frame, b, lanes = self.frame, self.b, self.lanes
        number = frame.problem.mask or 0
        shape = (*frame.domain[:-2], frame.length, frame.source_length)
        access = frame.region.inputs[number].aligned_to(shape)
        accesses = [access if i == number else a for i, a in enumerate(frame.region.inputs)]
        reader = Evaluator(frame.region, b, frame.inputs, accesses)
        node, query = frame.region.placeholders[number], b.let(b_row(self.first, row))
        dim = len(shape) - 1
        if not is_bounded or access.strides[-1] == 0:
            point = Point((*frame.place, query, position), dim, lanes)
            return splat(reader.load(node, point), lanes)
        left = b.let(tirx.Max(b.size(frame.source_length) - position, index(0)))
        if frame.isa.has_masks:
            return reader.load(node, Point((*frame.place, query, position), dim, lanes, left))
        memory = b.local(stored(access.dtype), lanes, "mask")
        with b.loop(index(0), b.let(tirx.Min(left, index(lanes))), "lane") as lane:
            value = reader.load(node, Point((*frame.place, query, b.let(position + lane))))
            b.store(memory, cast(value, stored(access.dtype)), lane)
        return from_memory(load(memory, 0, lanes), access.dtype)


def b_row(first: Expr, row: int) -> Expr:
    """The query of a tile's row."""
    return first + index(row)
