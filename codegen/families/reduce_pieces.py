"""Reductions whose results are too few to share: each is the sum of pieces that threads share.

A map that is pooled as a whole gives one vector of channels. Its rows are cut into pieces, so that
a thread reads the rows it has just written; a second stage combines them and runs the epilogue.
"""

from dataclasses import replace

import numpy as np
from torch import fx
from tvm import tirx

from effc.codegen.dtypes import stored
from effc.codegen.evaluate import Evaluator, Point
from effc.codegen.families.elementwise import loop_order, unravel
from effc.codegen.families.reduce import Axis, Coordinates, Window, finished, total_of, window_of
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Kernel, Stage
from effc.codegen.operands import argument
from effc.codegen.reduce_lanes import total_type
from effc.codegen.region import Region
from effc.codegen.tir import Builder, Expr, const, index, load, with_lanes
from effc.codegen.vectors import Run, Vectors
from effc.codegen.work import TINY_NBYTES, work_of
from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.symbols import Size, product

PIECES, FEW, VECTORS = 16, 8, 4
WHOLE_POOLS = ("adaptive_avg_pool2d", "_adaptive_avg_pool2d")


def applies(region: Region) -> bool:
    """Whether a region is one reduction of whole maps with few results beside its channels."""
    anchors = [node for node in region.calls if kind_of(node) == Kind.REDUCE]
    source = region.inputs[region.input_of(anchors[0].args[0])] if _reads_input(anchors) else None
    if len(anchors) != 1 or source is None:
        return False
    sizes = [*region.shape(anchors[0]), *source.shape]
    nbytes = work_of(region).nbytes
    if not all(isinstance(size, int) for size in (*sizes, nbytes)) or nbytes <= TINY_NBYTES:
        return False
    name = op_name(anchors[0]).split(".")[1]
    is_whole = name in ("mean", "sum") or (
        name in WHOLE_POOLS and list(argument(anchors[0], 1, "output_size", ())) == [1, 1]
    )
    return is_whole and _is_along_kept(region, anchors[0]) and product(_outer(region)) < FEW


def _reads_input(anchors: list[fx.Node]) -> bool:
    source = anchors[0].args[0]
    return isinstance(source, fx.Node) and source.op == "placeholder"


def _is_along_kept(region: Region, anchor: fx.Node) -> bool:
    """Whether the contiguous dimension of the result is the input's, so that vectors run there."""
    if not region.shape(anchor):
        return False
    inner = loop_order(region.outputs[0])[-1]
    window = window_of(region, anchor)
    source = region.inputs[region.input_of(anchor.args[0])]
    places = [dim for dim, out in window.fixed.items() if out == inner]
    rows = source.shape[window.axes[0].dim] if window.axes else 1
    return len(places) == 1 and source.strides[places[0]] == 1 and rows > 1


def _outer(region: Region) -> list[Size]:
    domain = region.outputs[0].shape
    return [domain[dim] for dim in loop_order(region.outputs[0])[:-1]]


def build(region: Region, isa: Isa, name: str, symbols: tuple[str, ...]) -> Kernel:
    """Make the kernel of a region with one reduction of whole maps."""
    anchor = next(node for node in region.calls if kind_of(node) == Kind.REDUCE)
    parts = _Pieces(region, isa, anchor)
    stages = (parts.reduce(f"{name}_pieces", symbols), parts.combine(name, symbols))
    itemsize = np.dtype(parts.dtype).itemsize
    nbytes = product([*region.shape(anchor), parts.pieces, itemsize])
    family = "pool" if "pool" in op_name(anchor) else "reduce"
    return Kernel(family, stages, temporaries={"partial": nbytes})


class _Pieces:
    """Both stages of such a reduction."""

    def __init__(self, region: Region, isa: Isa, anchor: fx.Node) -> None:
        self.region, self.isa, self.anchor = region, isa, anchor
        self.window = window_of(region, anchor)
        self.dtype = total_type(anchor.meta["val"].dtype)
        self.domain = region.shape(anchor)
        *self.outer, self.inner = loop_order(region.outputs[0])
        source = region.inputs[region.input_of(anchor.args[0])]
        self.rows = source.shape[self.window.axes[0].dim]
        self.pieces = min(PIECES, int(self.rows))

    def reduce(self, name: str, symbols: tuple[str, ...]) -> Stage:
        """Reduce some rows to a vector of partial results."""
        function = FunctionBuilder(name, symbols)
        evaluator, _ = self._evaluator(function)
        partial = function.param("temporary", "partial", self.dtype)
        b = function.builder
        begin, end = function.task_range
        with b.loop(begin, end, "task") as task:
            *place, piece = unravel(b, task, [*self._sizes(), self.pieces])
            window = self._part(piece)

            def compute(at: Expr, lanes: int, count: Expr | None) -> None:
                point = self._point(place, at, lanes, count)
                total = total_of(evaluator, self.anchor, window, point)
                where = b.let(task * b.size(self.domain[self.inner]) + at)
                if count is None:
                    b.store(partial, total, where)
                else:
                    b.store_masked(partial, total, where, count)

            self._vectors().cover(b, self._run(b), compute)
        return function.close(product([*self._sizes(), self.pieces]))

    def combine(self, name: str, symbols: tuple[str, ...]) -> Stage:
        """Combine the pieces, finish the result and store it."""
        function = FunctionBuilder(name, symbols)
        evaluator, outputs = self._evaluator(function)
        partial = function.param("temporary", "partial", self.dtype)
        b, region, kind = function.builder, self.region, self.window.kind
        begin, end = function.task_range
        with b.loop(begin, end, "task") as task:
            place = unravel(b, task, self._sizes())

            def compute(at: Expr, lanes: int, count: Expr | None) -> None:
                point = self._point(place, at, lanes, count)
                total = b.local(self.dtype, lanes, "total")
                neutral = const(kind.neutral(self.dtype), with_lanes(self.dtype, lanes))
                b.store(total, neutral, 0)
                with b.loop(index(0), index(self.pieces), "piece") as piece:
                    row = task * index(self.pieces) + piece
                    there = load(partial, row * b.size(self.domain[self.inner]) + at, lanes)
                    b.store(total, kind.combine(b.let(load(total, 0, lanes)), b.let(there)), 0)
                known = finished(
                    evaluator, self.anchor, self.window, point, b.let(load(total, 0, lanes))
                )
                scope = evaluator.fresh({self.anchor: known})
                accesses = region.outputs
                for node, buffer, access in zip(region.results, outputs, accesses, strict=True):
                    scope.store(buffer, access, scope.value(node, point), point)

            lanes = self.isa.lanes if self._is_even() else 1
            Vectors(lanes, False).cover(b, self._run(b), compute)
        return function.close(product(self._sizes()))

    def _evaluator(self, function: FunctionBuilder) -> tuple[Evaluator, list[tirx.Buffer]]:
        region, source = self.region, self.region.input_of(self.anchor.args[0])
        inputs = [function.param("input", i, stored(a.dtype)) for i, a in enumerate(region.inputs)]
        outputs = [
            function.param("output", i, stored(a.dtype)) for i, a in enumerate(region.outputs)
        ]
        accesses = [
            a if i == source else a.aligned_to(self.domain) for i, a in enumerate(region.inputs)
        ]
        return Evaluator(region, function.builder, inputs, accesses, pointwise=True), outputs

    def _part(self, piece: Expr) -> Window:
        """The window, but of its first axis only the rows of a piece."""

        def bounds(b: Builder, at: Coordinates) -> tuple[Expr, Expr]:
            first = tirx.Div(piece * index(self.rows), index(self.pieces))
            last = tirx.Div((piece + index(1)) * index(self.rows), index(self.pieces))
            return b.let(first), b.let(last)

        first, *others = self.window.axes
        return replace(self.window, axes=(Axis(first.dim, bounds), *others))

    def _sizes(self) -> list[Size]:
        return [self.domain[dim] for dim in self.outer]

    def _point(self, place: list[Expr], at: Expr, lanes: int, count: Expr | None) -> Point:
        where = {**dict(zip(self.outer, place, strict=True)), self.inner: at}
        coordinates = tuple(where[dim] for dim in range(len(self.domain)))
        return Point(coordinates, self.inner if lanes > 1 else None, lanes, count)

    def _run(self, b: Builder) -> Run:
        return Run(index(0), b.size(self.domain[self.inner]), self.domain[self.inner])

    def _is_even(self) -> bool:
        return int(self.domain[self.inner]) % self.isa.lanes == 0

    def _vectors(self) -> Vectors:
        """Several vectors at once: their sums do not wait for each other."""
        count = int(self.domain[self.inner]) // self.isa.lanes
        together = max(way for way in (1, 2, VECTORS) if way <= max(count, 1))
        return Vectors(self.isa.lanes * together, self.isa.has_masks)
