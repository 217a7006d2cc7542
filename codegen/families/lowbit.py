"""Products with weights in 2 to 8 bits, from one position (decoding) to many.

Codes are unpacked in registers, where they are used. The sums of a group of features are exact
integers; they are scaled and added up in float32 group after group. Sums of the products of codes
and activations still hold the zero point times the sum of the activations, which is taken off per
group: with few positions that sum is one more column, with many it is found while the activations
are packed into tiles.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tvm import tirx

from effc.codegen.dtypes import from_memory, stored
from effc.codegen.epilogue import Epilogue
from effc.codegen.evaluate import Evaluator
from effc.codegen.families.elementwise import unravel
from effc.codegen.families.lowbit_activations import Activations, tile_stage
from effc.codegen.families.lowbit_dot import Block, Sums
from effc.codegen.families.lowbit_plan import Plan, plan_of
from effc.codegen.families.lowbit_schedule import FEW_ROWS, LowbitSchedule, space_of
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Kernel
from effc.codegen.pack import FEATURES, STEP
from effc.codegen.region import Region
from effc.codegen.schedule import Space
from effc.codegen.tir import Expr, cast, const, index, load, splat, with_lanes
from effc.ir.symbols import Size, ceil_div, product


def build(
    region: Region,
    isa: Isa,
    name: str,
    symbols: tuple[str, ...],
    schedule: LowbitSchedule | None = None,
) -> Kernel:
    """Make the kernel of a region whose anchor is a product with low-bit weights."""
    plan = plan_of(region, isa, schedule)
    kernel = _LowbitBuilder(region, isa, plan, name, symbols).kernel()
    if not plan.is_tiled:
        return kernel
    stage, temporaries = tile_stage(region, plan, f"{name}_tiles", symbols)
    return replace(kernel, stages=(stage, *kernel.stages), temporaries=temporaries)


def space(region: Region, isa: Isa) -> Space:
    """Schedules of a product worth trying, the default first."""
    return space_of(plan_of(region, isa).extent, isa)


@dataclass(frozen=True)
class Tile:
    """Where a register tile stands.

    Attributes:
        panel: Number of the panel.
        outer: Coordinates of the outer dimensions.
        first: First position.
        rows: How many positions.
        activations: How it reads them.
    """

    panel: Expr
    outer: tuple[Expr, ...]
    first: Expr
    rows: int
    activations: Activations


@dataclass(frozen=True)
class Group:
    """A group of features: its number, its place in the panel's blocks, and its size."""

    number: Expr
    block: Expr
    features: int


class _LowbitBuilder:
    """Writes the function of one product."""

    def __init__(
        self, region: Region, isa: Isa, plan: Plan, name: str, symbols: tuple[str, ...]
    ) -> None:
        self.isa, self.plan = isa, plan
        self.function = FunctionBuilder(name, symbols)
        self.b = self.function.builder
        self.inputs = [
            self.function.param("input", i, stored(access.dtype))
            for i, access in enumerate(region.inputs)
        ]
        outputs = [
            self.function.param("output", i, stored(access.dtype))
            for i, access in enumerate(region.outputs)
        ]
        self.codes = self.function.param("packed", "codes", "uint8")
        self.scales = self.function.param("packed", "scales", stored(plan.scale_dtype))
        self.zeros = self.function.param("packed", "zeros", "uint8")
        self.table = self.function.param("packed", "table", "float32")
        element = "int8" if plan.is_integer else "float32"
        self.tiles = self.function.param("temporary", "tiles", element)
        self.sums = self.function.param("temporary", "sums", "int32")
        evaluator = Evaluator(region, self.b, self.inputs, list(plan.inputs), pointwise=True)
        self.epilogue = Epilogue(plan.anchor, evaluator, outputs, plan.outputs, isa.has_masks)

    def kernel(self) -> Kernel:
        """Emit the loops over tasks and close the kernel."""
        plan, b = self.plan, self.b
        begin, end = self.function.task_range
        extents: list[Size] = [plan.panels, *plan.outer, ceil_div(plan.positions, plan.chunk)]
        with b.loop(begin, end, "task") as task:
            panel, *outer, chunk = unravel(b, task, extents)
            first = b.let(chunk * index(plan.chunk))
            last = b.let(tirx.Min(first + index(plan.chunk), b.size(plan.positions)))
            self._positions(panel, tuple(outer), first, last)
        stage = self.function.close(product(extents))
        return Kernel("lowbit", (stage,), packed=plan.packed)

    def _positions(self, panel: Expr, outer: tuple[Expr, ...], first: Expr, last: Expr) -> None:
        """Cover positions with tiles; the last one overlaps its neighbour if it must."""
        plan, b = self.plan, self.b
        if isinstance(plan.positions, int):
            self._tiles_of(plan.rows, plan.is_tiled, panel, outer, first, last)
            return
        positions = b.size(plan.positions)
        enough = positions >= index(plan.rows)
        with b.when(enough):
            self._tiles_of(plan.rows, True, panel, outer, first, last)
        with b.otherwise(enough):
            several = positions >= index(FEW_ROWS)
            with b.when(several):
                self._tiles_of(FEW_ROWS, False, panel, outer, first, last)
            with b.otherwise(several):
                self._tiles_of(1, False, panel, outer, first, last)

    def _tiles_of(
        self,
        rows: int,
        is_packed: bool,
        panel: Expr,
        outer: tuple[Expr, ...],
        first: Expr,
        last: Expr,
    ) -> None:
        plan, b = self.plan, self.b
        count = b.let(tirx.Div(last - first + index(rows - 1), index(rows)))
        with b.loop(index(0), count, "tile") as number:
            wanted = first + number * index(rows)
            here = b.let(tirx.Min(wanted, b.size(plan.positions) - index(rows)))
            if is_packed:
                flat = index(0)
                for coordinate, size in zip(outer, plan.outer, strict=True):
                    flat = flat * b.size(size) + coordinate
                flat = flat * b.size(plan.tiles) + tirx.Div(first, index(rows)) + number
                source = Activations.of_tile(plan, b, self.tiles, self.sums, b.let(flat))
            else:
                source = Activations.in_place(plan, b, self.inputs[plan.source], outer, here)
            self._tile(Tile(panel, outer, here, rows, source))

    def _tile(self, tile: Tile) -> None:
        plan, b, lanes = self.plan, self.b, self.isa.lanes
        totals = b.local("float32", tile.rows * plan.vectors * lanes, "total")
        for number in range(tile.rows * plan.vectors):
            b.store(totals, const(0.0, with_lanes("float32", lanes)), number * lanes)
        together = max(plan.group, FEATURES) if plan.has_parts else plan.group
        whole, rest = divmod(plan.features, together)
        blocks = -(-together // FEATURES) * plan.planes
        turns = whole // plan.unroll
        with b.loop(0, turns, "group") as turn:
            for one in range(plan.unroll):
                number = b.let(turn * index(plan.unroll) + index(one))
                self._group(tile, Group(number, b.let(number * index(blocks)), together), totals)
        for left in range(turns * plan.unroll, whole):
            self._group(tile, Group(index(left), index(left * blocks), together), totals)
        if rest:
            self._group(tile, Group(index(whole), index(whole * blocks), rest), totals)
        tail = plan.columns % plan.width
        if tail == 0 or plan.panels == 1:
            self._finish(tile, totals, tail or plan.width)
            return
        is_last = tirx.EQ(tile.panel, index(plan.panels - 1))
        with b.when(is_last):
            self._finish(tile, totals, tail)
        with b.otherwise(is_last):
            self._finish(tile, totals, plan.width)

    def _finish(self, tile: Tile, totals: tirx.Buffer, columns: int) -> None:
        """Run the epilogue on every vector of the tile and store the results."""
        plan, b, lanes = self.plan, self.b, self.isa.lanes
        for row in range(tile.rows):
            for vector in range(-(-columns // lanes)):
                column = b.let(tile.panel * index(plan.width) + index(vector * lanes))
                named = {plan.position_dim: b.let(tile.first + index(row)), plan.column_dim: column}
                remaining = iter(tile.outer)
                place = tuple(
                    named[dim] if dim in named else next(remaining)
                    for dim in range(len(tile.outer) + 2)
                )
                total = load(totals, (row * plan.vectors + vector) * lanes, lanes)
                valid = min(lanes, columns - vector * lanes)
                self.epilogue.finish(total, place, plan.column_dim, valid)

    def _group(self, tile: Tile, group: Group, totals: tirx.Buffer) -> None:
        """Add a group's products, times its scales, to the totals."""
        for plane in range(self.plan.planes):
            blocks = -(-group.features // FEATURES)
            first = self.b.let(
                tile.panel * index(self.plan.blocks * self.plan.planes)
                + group.block
                + index(plane * blocks)
            )
            if self.plan.has_parts:
                self._parts(tile, group, totals, first)
                continue
            meta = self._meta(tile, group.number, plane)
            if self.plan.is_integer:
                self._integer_plane(tile, group, totals, first, meta)
            else:
                self._float_plane(tile, group, totals, first, meta)

    def _meta(self, tile: Tile, number: Expr, plane: int) -> Expr:
        """Where the scales of a group lie."""
        plan = self.plan
        meta = tile.panel * index(plan.groups) + number
        return self.b.let((meta * index(plan.planes) + index(plane)) * index(plan.width))

    def _parts(self, tile: Tile, group: Group, totals: tirx.Buffer, first: Expr) -> None:
        """Add the products of a block whose features have several scales."""
        plan, b = self.plan, self.b
        codes = self._codes(tile, first, index(0))
        base = b.let(group.number * index(FEATURES))
        for part in range(-(-group.features // plan.group)):
            number = group.number * index(FEATURES // plan.group) + index(part)
            meta = self._meta(tile, number, 0)
            products = self._cleared(tile)
            begin = part * plan.group
            for feature in range(begin, min(begin + plan.group, group.features)):
                self._feature(tile, codes, base, feature, [], products)
            self._scaled(tile, products, totals, meta)

    def _integer_plane(
        self, tile: Tile, group: Group, totals: tirx.Buffer, first: Expr, meta: Expr
    ) -> None:
        plan, b, lanes = self.plan, self.b, self.isa.lanes
        products = b.local("int32", tile.rows * plan.vectors * lanes, "product")
        zeros = [self._zero_points(meta, vector) for vector in range(plan.vectors)]
        has_sums = tile.activations.is_packed
        for row in range(tile.rows):
            start = splat(tile.activations.sum(group.number, row), lanes) if has_sums else None
            for vector in range(plan.vectors):
                value = const(0, with_lanes("int32", lanes))
                if start is not None:
                    zero = zeros[vector]
                    value = b.let(start) if zero is None else b.let(start) * zero
                b.store(products, value, (row * plan.vectors + vector) * lanes)
        sums = Sums(b, self.isa, products, tile.rows * plan.vectors, plan.bits)
        own = b.local("int32", tile.rows * lanes, "sum")
        added = None if has_sums else Sums(b, self.isa, own, tile.rows, 2)
        for row in range(0 if has_sums else tile.rows):
            b.store(own, const(0, with_lanes("int32", lanes)), row * lanes)

        def multiply(block: Expr, features: int) -> None:
            self._block(tile, group, first, block, features, sums, added)

        self._blocks(group, multiply)
        for vector in range(plan.vectors):
            scale = self._scale(meta, vector)
            for row in range(tile.rows):
                at = (row * plan.vectors + vector) * lanes
                value = load(products, at, lanes)
                if not has_sums:
                    start = b.let(
                        const(0, with_lanes("int32", lanes)) - load(own, row * lanes, lanes)
                    )
                    value = value + self._taken_off(start, zeros[vector])
                total = self.isa.multiply_add(
                    cast(value, "float32"), scale, load(totals, at, lanes)
                )
                b.store(totals, total, at)

    def _taken_off(self, negated: Expr, zeros: Expr | None) -> Expr:
        """Zero points times the (negated) sum of the activations."""
        if zeros is not None:
            return negated * zeros
        return negated << const(self.plan.bits - 1, with_lanes("int32", self.isa.lanes))

    def _blocks(self, group: Group, multiply: Callable[[Expr, int], None]) -> None:
        """Emit a loop over whole blocks, then what is left of the last one."""
        whole, rest = divmod(group.features, FEATURES)
        with self.b.loop(0, whole, "block") as block:
            multiply(block, FEATURES)
        if rest:
            multiply(index(whole), rest)

    def _block(
        self, tile: Tile, group: Group, first: Expr, block: Expr, features: int,
        sums: Sums, added: Sums | None,
    ) -> None:  # fmt: skip
        plan, b, lanes = self.plan, self.b, self.isa.lanes
        codes = self._codes(tile, first, block)
        base = b.let(group.number * index(plan.group) + block * index(FEATURES))
        ones = const(1, with_lanes("uint8", lanes * 4))
        steps = -(-features // STEP)
        for step in range(steps):
            values = [one.step(step) for one in codes]
            valid = min(STEP, features - step * STEP)
            for row in range(tile.rows):
                features_of = tile.activations.word(base, step, row, valid)
                activations = tirx.reinterpret(f"int8x{lanes * 4}", splat(features_of, lanes))
                activations = b.let(activations)
                for vector in range(plan.vectors):
                    sums.add(row * plan.vectors + vector, values[vector], activations)
                if added is not None:
                    added.add(row, ones, activations)
            for one in (sums, added):
                if one is not None:
                    one.end_step(step == steps - 1)

    def _codes(self, tile: Tile, first: Expr, block: Expr) -> list[Block]:
        plan, b, ahead = self.plan, self.b, tile.activations.is_packed
        at = b.let((first + block) * index(plan.block_nbytes))
        each = plan.block_nbytes // plan.vectors
        starts = [b.let(at + index(vector * each)) for vector in range(plan.vectors)]
        return [Block(b, self.codes, one, plan.bits, self.isa.lanes, ahead) for one in starts]

    def _float_plane(
        self, tile: Tile, group: Group, totals: tirx.Buffer, first: Expr, meta: Expr
    ) -> None:
        plan, b, lanes = self.plan, self.b, self.isa.lanes
        products = self._cleared(tile)
        fixed = const(1 << (plan.bits - 1), with_lanes("int32", lanes))
        found = [self._zero_points(meta, vector) for vector in range(plan.vectors)]
        zeros = [fixed if zero is None else zero for zero in found]

        def multiply(block: Expr, features: int) -> None:
            codes = self._codes(tile, first, block)
            base = b.let(group.number * index(plan.group) + block * index(FEATURES))
            for feature in range(features):
                self._feature(tile, codes, base, feature, zeros, products)

        self._blocks(group, multiply)
        self._scaled(tile, products, totals, meta)

    def _cleared(self, tile: Tile) -> tirx.Buffer:
        """Room for the products of a group."""
        lanes, count = self.isa.lanes, tile.rows * self.plan.vectors
        products = self.b.local("float32", count * lanes, "product")
        for number in range(count):
            self.b.store(products, const(0.0, with_lanes("float32", lanes)), number * lanes)
        return products

    def _feature(
        self, tile: Tile, codes: list[Block], base: Expr, feature: int, zeros: list[Expr],
        products: tirx.Buffer,
    ) -> None:  # fmt: skip
        """Add the products of one feature."""
        plan, b, lanes = self.plan, self.b, self.isa.lanes
        found = [one.feature(feature) for one in codes]
        if plan.has_table:
            weights = [
                b.let(self.isa.looked_up(self.table, b.let(one), 1 << plan.bits)) for one in found
            ]
        else:
            weights = [
                b.let(cast(one - zero, "float32")) for one, zero in zip(found, zeros, strict=True)
            ]
        for row in range(tile.rows):
            value = splat(b.let(tile.activations.number(base, feature, row)), lanes)
            for vector in range(plan.vectors):
                at = (row * plan.vectors + vector) * lanes
                total = self.isa.multiply_add(value, weights[vector], load(products, at, lanes))
                b.store(products, total, at)

    def _scaled(self, tile: Tile, products: tirx.Buffer, totals: tirx.Buffer, meta: Expr) -> None:
        """Add products times their scales to the totals."""
        plan, b, lanes = self.plan, self.b, self.isa.lanes
        for vector in range(plan.vectors):
            scale = self._scale(meta, vector)
            for row in range(tile.rows):
                at = (row * plan.vectors + vector) * lanes
                value, total = load(products, at, lanes), load(totals, at, lanes)
                b.store(totals, self.isa.multiply_add(value, scale, total), at)

    def _scale(self, meta: Expr, vector: int) -> Expr:
        lanes = self.isa.lanes
        value = load(self.scales, meta + index(vector * lanes), lanes)
        return self.b.let(from_memory(value, self.plan.scale_dtype))

    def _zero_points(self, meta: Expr, vector: int) -> Expr | None:
        """The zero points of a group and vector of columns, as int32, if it has any."""
        if not self.plan.has_zero_points:
            return None
        lanes = self.isa.lanes
        return self.b.let(cast(load(self.zeros, meta + index(vector * lanes), lanes), "int32"))
