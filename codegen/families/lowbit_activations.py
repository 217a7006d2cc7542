"""How a product with low-bit weights reads activations: in place, or packed into tiles first.

A tile holds the activations of its rows step by step, those of all rows side by side, so that a
step reads one run of memory whatever the stride between rows. With int8 activations, the negated
sum of every group of every row comes with it.
"""

from dataclasses import dataclass

from tvm import tirx

from effc.codegen.dtypes import stored
from effc.codegen.families.elementwise import unravel
from effc.codegen.families.lowbit_plan import Plan
from effc.codegen.kernel import FunctionBuilder, Stage
from effc.codegen.pack import STEP
from effc.codegen.region import Region
from effc.codegen.tir import Builder, Expr, cast, const, index, load
from effc.ir.symbols import Size

SUM_NBYTES = FLOAT_NBYTES = 4


@dataclass(frozen=True)
class Activations:
    """Where a register tile's activations lie.

    Attributes:
        b: Where loads go.
        buffer: int8 or float32.
        base: Where feature 0 of the first row is.
        row_stride: Elements between rows.
        step_stride: Elements between steps of four features; None where features are neighbours.
        sums: Negated sums of groups `[group][row]`, and where they start.
        rows: Rows of a packed tile.
    """

    b: Builder
    buffer: tirx.Buffer
    base: Expr
    row_stride: Expr
    step_stride: int | None = None
    sums: tuple[tirx.Buffer, Expr] | None = None
    rows: int = 0

    @classmethod
    def in_place(
        cls, plan: Plan, b: Builder, source: tirx.Buffer, outer: tuple[Expr, ...], first: Expr
    ) -> "Activations":
        """Rows of the source from a position on."""
        base = row_offset(plan, b, outer, first)
        return cls(b, source, b.let(base), b.let(b.size(plan.position_stride)))

    @classmethod
    def of_tile(
        cls, plan: Plan, b: Builder, tiles: tirx.Buffer, sums: tirx.Buffer, number: Expr
    ) -> "Activations":
        """A packed tile."""
        base = b.let(number * index(plan.tile_size))
        start = b.let(number * index(plan.groups * plan.rows))
        stride = plan.rows * plan.depth
        return cls(b, tiles, base, index(plan.depth), stride, (sums, start), plan.rows)

    @property
    def is_packed(self) -> bool:
        """Whether they lie in a tile, with their sums."""
        return self.sums is not None

    def sum(self, group: Expr, row: int) -> Expr:
        """The negated sum of a group of a row, as `_sum_row` leaves it."""
        if self.sums is None:
            raise AssertionError("activations read in place have no sums")
        buffer, start = self.sums
        return load(buffer, start + group * index(self.rows) + index(row))

    def word(self, base: Expr, step: int, row: int, valid: int) -> Expr:
        """Four int8 features as an int32; with fewer valid ones, zeros behind them."""
        at = self._at(base, step * STEP, row)
        if valid == STEP or self.step_stride is not None:
            four = tirx.BufferLoad(self.buffer, [tirx.Ramp(at, const(1), STEP)])
            return tirx.reinterpret("int32", four)
        total = const(0, "uint32")
        for byte in range(valid):
            one = cast(tirx.reinterpret("uint8", load(self.buffer, at + index(byte))), "uint32")
            total = total | (one << const(8 * byte, "uint32"))
        return tirx.reinterpret("int32", total)

    def number(self, base: Expr, feature: int, row: int) -> Expr:
        """A float32 feature."""
        return load(self.buffer, self._at(base, feature, row))

    def _at(self, base: Expr, feature: int, row: int) -> Expr:
        """Where a feature of a row is, `base` being the first feature of a block."""
        if self.step_stride is None:
            return self.base + self.row_stride * index(row) + base + index(feature)
        depth = self.step_stride // self.rows
        first = self.base + base * index(self.rows)
        return first + index(feature // depth * self.step_stride + row * depth)


def row_offset(plan: Plan, b: Builder, outer: tuple[Expr, ...], position: Expr) -> Expr:
    """Where the first feature of a position is in the source."""
    total = position * b.size(plan.position_stride)
    for coordinate, stride in zip(outer, plan.outer_strides, strict=True):
        total = total + coordinate * b.size(stride)
    return total


def tile_stage(
    region: Region, plan: Plan, name: str, symbols: tuple[str, ...]
) -> tuple[Stage, dict[str, Size]]:
    """A stage that packs activations into tiles, and the bytes they take."""
    element = stored(region.inputs[plan.source].dtype)
    function = FunctionBuilder(name, symbols)
    source = function.param("input", plan.source, element)
    tiles = function.param("temporary", "tiles", element)
    sums = function.param("temporary", "sums", "int32")
    b = function.builder
    begin, end = function.task_range
    positions = b.size(plan.positions)
    with b.loop(begin, end, "task") as task:
        *outer, number = unravel(b, task, [*plan.outer, plan.tiles])
        wanted = number * index(plan.rows)
        first = b.let(tirx.Min(wanted, positions - index(plan.rows)))
        with b.when(positions >= index(plan.rows)):
            base = b.let(row_offset(plan, b, tuple(outer), first))
            there = b.let(task * index(plan.tile_size))
            with b.loop(index(0), index(plan.rows), "row") as row:
                line = b.let(base + row * b.size(plan.position_stride))
                _copy_row(plan, b, source, tiles, line, b.let(there + row * index(plan.depth)))
                if plan.is_integer:
                    start = b.let(task * index(plan.groups * plan.rows) + row)
                    _sum_row(plan, b, source, sums, line, start)
    nbytes = 1 if plan.is_integer else FLOAT_NBYTES
    temporaries: dict[str, Size] = {"tiles": plan.tile_count * plan.tile_size * nbytes}
    if plan.is_integer:
        temporaries["sums"] = plan.tile_count * plan.groups * plan.rows * SUM_NBYTES
    return function.close(plan.tile_count), temporaries


def _copy_row(
    plan: Plan, b: Builder, source: tirx.Buffer, tiles: tirx.Buffer, line: Expr, there: Expr
) -> None:
    """Spread a row over its tile; features that are missing from the last step are zero."""
    whole, rest = divmod(plan.features, plan.depth)
    stride = plan.rows * plan.depth
    with b.loop(index(0), index(whole), "step") as step:
        b.store(tiles, load(source, line + step * index(plan.depth), plan.depth),
                there + step * index(stride))  # fmt: skip
    for place in range(plan.depth if rest else 0):
        at = line + index(whole * plan.depth + place)
        value = load(source, at) if place < rest else const(0, "int8")
        b.store(tiles, value, there + index(whole * stride + place))


def _sum_row(
    plan: Plan, b: Builder, source: tirx.Buffer, sums: tirx.Buffer, line: Expr, start: Expr
) -> None:
    """Negated sums of the groups of a row, times the zero point if all groups have the same."""
    factor = 1 if plan.has_zero_points else 1 << (plan.bits - 1)
    with b.loop(index(0), index(plan.groups), "group") as group:
        total = b.local("int32", 1, "total")
        b.store(total, const(0, "int32"), 0)
        first = b.let(group * index(plan.group))
        last = b.let(tirx.Min(first + index(plan.group), index(plan.features)))
        with b.loop(first, last, "feature") as feature:
            value = cast(load(source, line + feature), "int32")
            b.store(total, load(total, 0) - value, 0)
        b.store(sums, load(total, 0) * const(factor, "int32"), start + group * index(plan.rows))
