"""The packed product: linear layers, convolutions and matrix products share one register tile.

A tile of `rows` positions by `vectors` of output columns stays in registers while the loop over
taps and input features broadcasts one feature (float32), a pair (bfloat16) or four codes (int8)
per row and multiplies it with a packed panel of weights. The epilogue runs on the tile before it is
stored.
"""

from dataclasses import dataclass, replace

from tvm import tirx

from effc.codegen.dtypes import from_memory, stored
from effc.codegen.epilogue import Epilogue, Result
from effc.codegen.evaluate import Evaluator, Point
from effc.codegen.families.elementwise import unravel
from effc.codegen.families.product_pack import pack_stage
from effc.codegen.families.product_plan import Plan, Shape
from effc.codegen.families.product_schedule import (
    ProductSchedule,
    default_of,
    scheduled,
    space_of,
)
from effc.codegen.families.product_tile import plan_of, with_weights
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Kernel, ParamKind
from effc.codegen.narrow import Narrowing
from effc.codegen.region import Region
from effc.codegen.schedule import Space
from effc.codegen.tir import Expr, cast, const, index, load, splat, with_lanes
from effc.ir.symbols import Size, ceil_div, product, simplify


def space(region: Region, isa: Isa) -> Space:
    """Every schedule of a product worth trying, the default first."""
    return space_of(plan_of(region, isa), isa)


def build(
    region: Region,
    isa: Isa,
    name: str,
    symbols: tuple[str, ...],
    schedule: ProductSchedule | None = None,
) -> Kernel:
    """Make the kernel of a region whose anchor is a product."""
    plan = plan_of(region, isa)
    plan = with_weights(scheduled(plan, schedule or default_of(plan, isa)), region)
    kernel = ProductBuilder(region, isa, plan, name, symbols).kernel()
    if plan.runtime is None:
        return kernel
    pack, nbytes = pack_stage(region, plan, f"{name}_pack", symbols)
    return replace(kernel, stages=(pack, *kernel.stages), temporaries={"panels": nbytes})


@dataclass(frozen=True)
class Tile:
    """Where a register tile stands.

    Attributes:
        outer: Coordinates of the outer dimensions.
        first: First position.
        column: First output column within the group, as an expression.
        panel: Number of the panel, counted over all groups.
        group: Number of the channel group.
    """

    outer: tuple[Expr, ...]
    first: Expr
    column: Expr
    panel: Expr
    group: Expr


class ProductBuilder:
    """Writes the function of one product."""

    def __init__(
        self, region: Region, isa: Isa, plan: Plan, name: str, symbols: tuple[str, ...]
    ) -> None:
        self.region, self.isa, self.plan = region, isa, plan
        self.function = FunctionBuilder(name, symbols)
        self.b = self.function.builder
        self.inputs = [
            self.function.param("input", i, stored(access.dtype))
            for i, access in enumerate(region.inputs)
        ]
        self.outputs = [
            self.function.param("output", i, stored(access.dtype))
            for i, access in enumerate(region.outputs)
        ]
        self.dtype = region.inputs[plan.source].dtype
        has_pairs = plan.is_half and plan.depth == 2
        if has_pairs:
            self.function.import_llvm(isa.pair_code)
        kind: ParamKind = "packed" if plan.runtime is None else "temporary"
        self.panels = self.function.param(kind, "panels", plan.weight_dtype)
        self.sums = self.function.param("packed", "sums", "int32") if plan.is_integer else None
        self.evaluator = Evaluator(
            region, self.b, self.inputs, list(plan.inputs), pointwise=True,
            round_pairs=isa.round_pairs if has_pairs else None,
        )  # fmt: skip
        narrowing = Narrowing.of(region, isa)
        if narrowing is not None:
            self.function.import_llvm(narrowing.code)
        self.epilogue = Epilogue(
            plan.anchor, self.evaluator, self.outputs, plan.outputs, isa.has_masks, narrowing
        )

    def kernel(self) -> Kernel:
        """Emit the loops over tasks and close the kernel."""
        plan, b = self.plan, self.b
        begin, end = self.function.task_range
        sizes = {
            "panel": [simplify(plan.groups * plan.panels)],
            "outer": list(plan.outer),
            "chunk": [ceil_div(plan.positions, plan.chunk)],
        }
        extents = [size for part in plan.order for size in sizes[part]]
        with b.loop(begin, end, "task") as task:
            coordinates = iter(unravel(b, task, extents))
            place = {part: [next(coordinates) for _ in sizes[part]] for part in plan.order}
            self._task(place["panel"][0], tuple(place["outer"]), place["chunk"][0])
        stage = self.function.close(product(extents))
        return Kernel(plan.family, (stage,), packed=plan.packed)

    def _task(self, panel: Expr, outer: tuple[Expr, ...], chunk: Expr) -> None:
        plan, b = self.plan, self.b
        if plan.groups > 1:
            group = b.let(tirx.Div(panel, b.size(plan.panels)))
            local = b.let(tirx.Mod(panel, b.size(plan.panels)))
        else:
            group, local = index(0), panel
        positions = b.size(plan.positions)
        first = b.let(chunk * index(plan.chunk))
        last = b.let(tirx.Min(first + index(plan.chunk), positions))
        tile = Tile(outer, first, b.let(local * index(plan.width)), panel, group)
        if not isinstance(plan.columns, int):
            self._unknown_columns(tile, last)
            return
        tail = plan.columns % plan.width
        if tail == 0 or plan.panels == 1:
            self._positions(tile, last, tail or plan.width)
            return
        is_last = tirx.EQ(local, b.size(plan.panels) - index(1))
        with b.when(is_last):
            self._positions(tile, last, tail)
        with b.otherwise(is_last):
            self._positions(tile, last, plan.width)

    def _unknown_columns(self, tile: Tile, last: Expr) -> None:
        """Whole panels as always; of the last one the epilogue stores what there is."""
        plan, b = self.plan, self.b
        left = b.let(b.size(plan.columns) - tile.column)
        is_whole = left >= index(plan.width)
        with b.when(is_whole):
            self._positions(tile, last, plan.width)
        with b.otherwise(is_whole):
            self._positions(tile, last, left)

    def _positions(self, tile: Tile, last: Expr, columns: int | Expr) -> None:
        """Cover `tile.first..last` with tiles; the last one overlaps its neighbour if it must."""
        plan, b, rows = self.plan, self.b, self.plan.rows
        static = isinstance(plan.positions, int)
        if static and plan.positions % rows == 0 and plan.chunk % rows == 0:
            with b.loop(index(0), tirx.Div(last - tile.first, index(rows)), "tile") as number:
                self._tile(tile, b.let(tile.first + number * index(rows)), rows, columns)
            return
        count = tirx.Div(last - tile.first + index(rows - 1), index(rows))
        if static and plan.positions >= rows:
            with b.loop(index(0), count, "tile") as number:
                self._tile(tile, self._clamped(tile, number), rows, columns)
            return
        enough = b.size(plan.positions) >= index(rows)
        with b.when(enough), b.loop(index(0), count, "tile") as number:
            self._tile(tile, self._clamped(tile, number), rows, columns)
        with b.otherwise(enough), b.loop(tile.first, last, "row") as position:
            self._tile(tile, position, 1, columns)

    def _clamped(self, tile: Tile, number: Expr) -> Expr:
        wanted = tile.first + number * index(self.plan.rows)
        return self.b.let(
            tirx.Min(wanted, self.b.size(self.plan.positions) - index(self.plan.rows))
        )

    def _tile(self, tile: Tile, first: Expr, rows: int, columns: int | Expr) -> None:
        b, lanes = self.b, self.isa.lanes
        is_known = isinstance(columns, int)
        vectors = -(-columns // lanes) if is_known else self.plan.shape.vectors
        totals = b.local(self.plan.total_dtype, rows * vectors * lanes, "total")
        for vector in range(vectors):
            start = self._start(tile, vector)
            for row in range(rows):
                b.store(totals, start, (row * vectors + vector) * lanes)
        self._accumulate(tile, first, totals, rows, vectors)
        results = []
        for row in range(rows):
            for vector in range(vectors):
                valid = self._valid(columns, vector * lanes)
                value = load(totals, (row * vectors + vector) * lanes, lanes)
                place = (b.let(first + index(row)), vector)
                results.append(self._result(tile, place, valid, value))
        self.epilogue.finish_all(results, self.plan.column_dim)

    def _valid(self, columns: int | Expr, before: int) -> int | Expr:
        """Lanes of a vector that are columns, of a panel that has some."""
        lanes = self.isa.lanes
        if isinstance(columns, int):
            return min(lanes, columns - before)
        left = tirx.Max(columns - index(before), index(0))
        return self.b.let(tirx.Min(left, index(lanes)))

    def _start(self, tile: Tile, vector: int) -> Expr:
        """What a column's total starts at: the term of a static zero point, else zero."""
        lanes = self.isa.lanes
        if self.sums is not None and self.plan.has_static_zero_point:
            at = tile.panel * index(self.plan.width) + index(vector * lanes)
            return self.b.let(load(self.sums, at, lanes))
        return const(0, with_lanes(self.plan.total_dtype, lanes))

    def _accumulate(
        self, tile: Tile, first: Expr, totals: tirx.Buffer, rows: int, vectors: int
    ) -> None:
        plan, b = self.plan, self.b
        source = self.inputs[plan.source]
        base = plan.source_base(b, tile.outer, tile.group) + first * b.size(plan.position_stride)
        base = b.let(base)
        steps = ceil_div(plan.features, plan.depth)
        step_size = plan.width * plan.depth
        panel_base = tile.panel
        if plan.runtime is not None:
            panel_base = self._matrix_number(tile) * b.size(plan.panels) + panel_base
        panel_base = b.let(panel_base * b.size(simplify(plan.taps * steps * step_size)))
        with b.loop(0, plan.taps, "tap") as tap:
            tap_base = b.let(base + plan.tap_offset(b, tap))
            weight_base = b.let(panel_base + tap * b.size(simplify(steps * step_size)))
            whole = steps - 1 if plan.has_odd_pair else steps
            self._steps(source, tap_base, weight_base, whole, totals, Shape(rows, vectors))
            if plan.has_odd_pair:
                here = b.let(tap_base + b.size(plan.features) - index(1))
                there = b.let(weight_base + b.size(simplify(whole * step_size)))
                self._step(source, here, there, totals, Shape(rows, vectors), is_single=True)

    def _steps(
        self, source: tirx.Buffer, here: Expr, there: Expr, count: Size, totals: tirx.Buffer,
        shape: Shape,
    ) -> None:  # fmt: skip
        """Do all whole steps of a run of features, some of them per turn of the loop."""
        plan, b = self.plan, self.b
        together = plan.unroll if isinstance(count, int) else 1
        step_size = plan.width * plan.depth
        turns = count // together if isinstance(count, int) else count

        def step(number: Expr) -> None:
            feature, weight = number * index(plan.depth), number * index(step_size)
            self._step(source, b.let(here + feature), b.let(there + weight), totals, shape)

        with b.loop(index(0), b.size(turns), "k") as k:
            for number in range(together):
                step(k * index(together) + index(number))
        for number in range(count % together if isinstance(count, int) else 0):
            step(index(turns * together + number))

    def _matrix_number(self, tile: Tile) -> Expr:
        """Which of the packed matrices a tile multiplies with."""
        flat, runtime = index(0), self.plan.runtime
        if runtime is None:
            return flat
        for size, dim in zip(runtime.batch, runtime.batch_dims, strict=True):
            coordinate = index(0) if dim is None else tile.outer[dim]
            flat = flat * self.b.size(size) + coordinate
        return self.b.let(flat)

    def _step(
        self, source: tirx.Buffer, here: Expr, there: Expr, totals: tirx.Buffer, shape: Shape,
        is_single: bool = False,
    ) -> None:  # fmt: skip
        """Multiply a step's features of every row with its weights."""
        plan, b, isa = self.plan, self.b, self.isa
        weights = [
            b.let(self._weights(there + index(vector * isa.lanes * plan.depth)))
            for vector in range(shape.vectors)
        ]
        for row in range(shape.rows):
            at = here + b.size(plan.position_stride) * index(row) if row else here
            feature = b.let(self._feature(source, at, is_single))
            for vector in range(shape.vectors):
                place = (row * shape.vectors + vector) * isa.lanes
                total = load(totals, place, isa.lanes)
                b.store(totals, self._multiplied(feature, weights[vector], total), place)

    def _weights(self, at: Expr) -> Expr:
        """The weights of one step and vector."""
        plan, isa = self.plan, self.isa
        if plan.is_integer:
            return isa.load_dot_weights(self.panels, at)
        found = load(self.panels, at, isa.lanes * plan.depth)
        return from_memory(found, self.dtype) if plan.is_half and plan.depth == 1 else found

    def _feature(self, source: tirx.Buffer, at: Expr, is_single: bool) -> Expr:
        """The features of one step and row, in all lanes."""
        plan, isa = self.plan, self.isa
        if plan.is_integer:
            return isa.load_dot_activations(source, at)
        if plan.depth == 2:
            return isa.load_pair(source, at, is_single)
        return splat(from_memory(load(source, at), self.dtype), isa.lanes)

    def _multiplied(self, feature: Expr, weights: Expr, total: Expr) -> Expr:
        plan, isa = self.plan, self.isa
        if plan.is_integer:
            return isa.dot(total, feature, weights)
        if plan.depth == 2:
            return isa.dot_pairs(total, feature, weights)
        return isa.multiply_add(feature, weights, total)

    def _result(
        self, tile: Tile, place: tuple[Expr, int], valid: int | Expr, total: Expr
    ) -> Result:
        """One vector of the tile at a position, in the domain."""
        position, vector = place
        plan, b, lanes = self.plan, self.b, self.isa.lanes
        column = tile.column + index(vector * lanes)
        column = b.let(tile.group * b.size(plan.columns) + column)
        coordinates, _ = plan.place(tile.outer, position, column)
        total = self._centred(tile, vector, coordinates, total)
        return Result(total, coordinates, valid, vector)

    def _centred(self, tile: Tile, vector: int, coordinates: tuple[Expr, ...], total: Expr) -> Expr:
        """Take off the zero point of the activations where it is only known now."""
        plan, b, lanes = self.plan, self.b, self.isa.lanes
        if self.sums is None or plan.zero_point is None or plan.has_static_zero_point:
            return total
        at = tile.panel * index(plan.width) + index(vector * lanes)
        zero = self.evaluator.fresh({}).value(plan.zero_point, Point(coordinates))
        return total + load(self.sums, at, lanes) * splat(cast(b.let(zero), "int32"), lanes)
