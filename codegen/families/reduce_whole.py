"""Reductions that take in the contiguous dimension: whole tensors, or whole images of a batch.

The memory of every result is cut into pieces that threads share; a second stage combines the pieces
and runs the epilogue. Several reductions of the same tensor read it once.
"""

from dataclasses import dataclass

import numpy as np
from torch import fx
from tvm import tirx

from effc.codegen.access import Access
from effc.codegen.dtypes import from_memory, stored
from effc.codegen.evaluate import Evaluator, Point
from effc.codegen.families.elementwise import typical, unravel
from effc.codegen.families.reduce import PLAIN, keeps_dims, reduced_dims
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Kernel, Stage
from effc.codegen.operands import base_of
from effc.codegen.reduce_lanes import Totals, as_value, total_type
from effc.codegen.region import Region
from effc.codegen.schedule import Schedule, Space, ordered
from effc.codegen.tir import Expr, cast, const, index, load, load_masked, mask
from effc.codegen.vectors import Run, Vectors
from effc.ir.symbols import Size, ceil_div, product, simplify

PIECES, WAYS = (1024, 4096, 16384), (2, 4, 8)


@dataclass(frozen=True)
class PieceSchedule(Schedule):
    """How contiguous runs are reduced.

    Attributes:
        piece: Elements of a task.
        ways: Vectors of independent totals.
    """

    piece: int = 4096
    ways: int = 4


def space(region: Region, isa: Isa) -> Space:
    """Every schedule of such a reduction, the default first."""
    points = [PieceSchedule(piece, ways) for piece in PIECES for ways in WAYS]
    return ordered(points, PieceSchedule())


def applies(region: Region, anchor: fx.Node) -> bool:
    """Whether a reduction takes in the dimension that is contiguous in memory."""
    if base_of(anchor) not in PLAIN:
        return False
    source = region.inputs[region.input_of(anchor.args[0])]
    reduced = reduced_dims(region, anchor)
    return any(source.strides[dim] == 1 and source.shape[dim] != 1 for dim in reduced)


@dataclass(frozen=True)
class Layout:
    """The memory of one result: lines of contiguous runs, cut into pieces.

    Attributes:
        kept: Dimensions of the source that stay.
        lines: Sizes of the reduced dimensions outside the run, slowest first.
        line_strides: Their strides.
        run: Elements of the run.
        piece: Elements of a piece.
    """

    kept: tuple[int, ...]
    lines: tuple[Size, ...]
    line_strides: tuple[Size, ...]
    run: Size
    piece: int

    @property
    def pieces(self) -> Size:
        """Pieces of a run."""
        return ceil_div(self.run, self.piece)

    @property
    def units(self) -> Size:
        """Pieces of a result."""
        return product([*self.lines, self.pieces])


def layout_of(source: Access, reduced: set[int], piece: int = 4096) -> Layout:
    """Order the reduced dimensions by stride and join those that lie one after the other.

    Repeated elements (stride 0) are lines; the run is contiguous.
    """
    order = sorted(reduced, key=lambda d: (source.strides[d] == 1, -typical(source.strides[d])))
    segments: list[tuple[Size, Size]] = []
    for dim in order:
        size, stride = source.shape[dim], source.strides[dim]
        if size == 1:
            continue
        if segments and simplify(segments[-1][1] - stride * size) == 0:
            segments[-1] = (simplify(segments[-1][0] * size), stride)
        else:
            segments.append((size, stride))
    *lines, (run, _) = segments
    kept = tuple(dim for dim in range(len(source.shape)) if dim not in reduced)
    return Layout(kept, tuple(s for s, _ in lines), tuple(s for _, s in lines), run, piece)


def build(
    region: Region,
    isa: Isa,
    name: str,
    symbols: tuple[str, ...],
    schedule: PieceSchedule | None = None,
) -> Kernel:
    """Make the kernel of a region of such reductions and what follows them."""
    chosen = schedule or PieceSchedule()
    anchors = [node for node in region.calls if base_of(node) in PLAIN]
    source = region.inputs[region.input_of(anchors[0].args[0])]
    layout = layout_of(source, reduced_dims(region, anchors[0]), chosen.piece)
    parts = _Parts(region, anchors, source, layout, isa, chosen.ways)
    stages = (parts.pieces(f"{name}_pieces", symbols), parts.combine(name, symbols))
    kept = [source.shape[dim] for dim in layout.kept]
    sizes = [np.dtype(total_type(node.meta["val"].dtype)).itemsize for node in anchors]
    nbytes = {
        f"partial_{i}": product([*kept, layout.units, itemsize]) for i, itemsize in enumerate(sizes)
    }
    return Kernel("reduce", stages, temporaries=nbytes)


@dataclass(frozen=True)
class _Parts:
    region: Region
    anchors: list[fx.Node]
    source: Access
    layout: Layout
    isa: Isa
    ways: int

    def _kept(self) -> list[Size]:
        return [self.source.shape[dim] for dim in self.layout.kept]

    def _partials(self, function: FunctionBuilder) -> list[tirx.Buffer]:
        return [
            function.param("temporary", f"partial_{i}", total_type(node.meta["val"].dtype))
            for i, node in enumerate(self.anchors)
        ]

    def pieces(self, name: str, symbols: tuple[str, ...]) -> Stage:
        """Reduce every piece to one number per reduction."""
        function = FunctionBuilder(name, symbols)
        position = self.region.input_of(self.anchors[0].args[0])
        memory = function.param("input", position, stored(self.source.dtype))
        partials = self._partials(function)
        b, layout = function.builder, self.layout
        extents = [*self._kept(), *layout.lines, layout.pieces]
        begin, end = function.task_range
        with b.loop(begin, end, "task") as task:
            place = unravel(b, task, extents)
            count = len(layout.kept)
            strides = [self.source.strides[dim] for dim in layout.kept] + list(layout.line_strides)
            base = index(0)
            for coordinate, stride in zip(place[: count + len(layout.lines)], strides, strict=True):
                base = base + coordinate * b.size(stride)
            first = b.let(place[-1] * index(layout.piece))
            last = b.let(tirx.Min(first + index(layout.piece), b.size(layout.run)))
            totals = self._reduce(function, memory, b.let(base), first, last)
            for buffer, total in zip(partials, totals, strict=True):
                b.store(buffer, total.result(), task)
        return function.close(product(extents))

    def _reduce(
        self, function: FunctionBuilder, memory: tirx.Buffer, base: Expr, first: Expr, last: Expr
    ) -> list[Totals]:
        b, lanes = function.builder, self.isa.lanes
        types = [node.meta["val"].dtype for node in self.anchors]
        totals = [
            Totals(b, PLAIN[base_of(node)], total_type(dtype), lanes, self.ways)
            for node, dtype in zip(self.anchors, types, strict=True)
        ]

        def add(at: Expr, count: int, valid: Expr | None, way: int = 0) -> None:
            raw = load(memory, base + at, count)
            if valid is not None:
                raw = load_masked(memory, base + at, count, valid)
            value = b.let(from_memory(raw, self.source.dtype))
            for total, dtype in zip(totals, types, strict=True):
                keep = None if valid is None else mask(valid, count)
                total.add(total.kind.term(value, dtype), way, keep)

        step = index(lanes * self.ways)
        turns = b.let(tirx.Div(last - first, step))
        with b.loop(index(0), turns, "turn") as turn:
            here = b.let(first + turn * step)
            for way in range(self.ways):
                add(b.let(here + index(way * lanes)), lanes, None, way)
        rest = Run(b.let(first + turns * step), last, None)
        Vectors(lanes, self.isa.has_masks).cover(b, rest, add)
        return totals

    def combine(self, name: str, symbols: tuple[str, ...]) -> Stage:
        """Combine the pieces of every result, finish it and store it."""
        region, function = self.region, FunctionBuilder(name, symbols)
        inputs = [function.param("input", i, stored(a.dtype)) for i, a in enumerate(region.inputs)]
        outputs = [
            function.param("output", i, stored(a.dtype)) for i, a in enumerate(region.outputs)
        ]
        partials = self._partials(function)
        b, domain = function.builder, region.shape(self.anchors[0])
        source = region.input_of(self.anchors[0].args[0])
        accesses = [a if i == source else a.aligned_to(domain) for i, a in enumerate(region.inputs)]
        evaluator = Evaluator(region, b, inputs, accesses)
        begin, end = function.task_range
        with b.loop(begin, end, "result") as task:
            place = unravel(b, task, self._kept())
            known = {
                node: self._combined(function, node, buffer, task)
                for node, buffer in zip(self.anchors, partials, strict=True)
            }
            point = Point(self._coordinates(place, domain))
            scope = evaluator.fresh(known)
            for node, buffer, access in zip(region.results, outputs, region.outputs, strict=True):
                scope.store(buffer, access, scope.value(node, point), point)
        return function.close(product(self._kept()))

    def _combined(
        self, function: FunctionBuilder, node: fx.Node, buffer: tirx.Buffer, task: Expr
    ) -> Expr:
        b, kind = function.builder, PLAIN[base_of(node)]
        dtype = total_type(node.meta["val"].dtype)
        units = b.size(self.layout.units)
        total = b.local(dtype, 1, "total")
        b.store(total, const(kind.neutral(dtype), dtype), 0)
        with b.loop(index(0), units, "unit") as unit:
            before = b.let(load(total, 0))
            b.store(total, kind.combine(before, load(buffer, task * units + unit)), 0)
        result = b.let(load(total, 0))
        if base_of(node) != "mean":
            return as_value(result, node.meta["val"].dtype)
        count = product([*self.layout.lines, self.layout.run])
        return b.let(result / cast(b.size(count), dtype))

    def _coordinates(self, place: list[Expr], domain: tuple[Size, ...]) -> tuple[Expr, ...]:
        """Where a result stands: reduced dimensions are gone or have size 1."""
        if not keeps_dims(self.anchors[0]):
            return tuple(place)
        kept = dict(zip(self.layout.kept, place, strict=True))
        return tuple(kept.get(dim, index(0)) for dim in range(len(domain)))
