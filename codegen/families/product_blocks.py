"""Products that pass over blocks of zeros: linear layers in float32, bfloat16 and int8.

A panel is one vector of columns. It has a list of the blocks that are not all zeros (columns of the
panel by the features of one multiply-add step), and a register tile goes through that list instead
of through all features: one more load per block, shared by all rows of the tile.
"""

from dataclasses import replace

from tvm import tirx

from effc.codegen.families.elementwise import typical
from effc.codegen.families.product import ProductBuilder, Tile
from effc.codegen.families.product_plan import Plan, Shape
from effc.codegen.families.product_schedule import (
    MOST_ROWS,
    ORDERS,
    PANEL_FIRST,
    TASK_POSITIONS,
    share_of_useful,
)
from effc.codegen.families.product_tile import plan_of, with_weights
from effc.codegen.isa import Isa
from effc.codegen.kernel import Kernel, Pack
from effc.codegen.pack import PackBlocks
from effc.codegen.region import Region
from effc.codegen.tir import INDEX, Expr, cast, const, index, load, with_lanes

TOGETHER = 4
FEW_ROWS = 4  # below, sums of several blocks are kept apart: one would wait for the other
PARTS = ("panels", "places", "starts")


def build(region: Region, isa: Isa, name: str, symbols: tuple[str, ...]) -> Kernel:
    """Make the kernel of a region whose anchor is a product with blocks of zeros."""
    plan = _planned(plan_of(region, isa))
    plan = with_weights(plan, region)
    weight = region.input_of(plan.anchor.args[1])
    packed: dict[str, Pack] = {
        part: PackBlocks(weight, plan.width, plan.depth, TOGETHER, part) for part in PARTS
    }
    plan = replace(plan, family="blocks", packed=plan.packed | packed)
    return _BlockBuilder(region, isa, plan, name, symbols).kernel()


def _planned(plan: Plan) -> Plan:
    """A plan with the best register tile of one vector, tasks of a few tiles."""
    positions = typical(plan.positions)
    most = min(MOST_ROWS, positions) if isinstance(plan.positions, int) else MOST_ROWS
    rows = max(range(1, most + 1), key=lambda rows: share_of_useful(plan, Shape(rows, 1)))
    tiles = min(max(TASK_POSITIONS // rows, 1), -(-positions // rows))
    return replace(plan, shape=Shape(rows, 1), chunk=tiles * rows, order=ORDERS[PANEL_FIRST])


class _BlockBuilder(ProductBuilder):
    """Writes the function of one product."""

    def __init__(
        self, region: Region, isa: Isa, plan: Plan, name: str, symbols: tuple[str, ...]
    ) -> None:
        super().__init__(region, isa, plan, name, symbols)
        self.places = self.function.param("packed", "places", "int32")
        self.starts = self.function.param("packed", "starts", "int32")

    def _accumulate(
        self, tile: Tile, first: Expr, totals: tirx.Buffer, rows: int, vectors: int
    ) -> None:
        plan, b = self.plan, self.b
        base = plan.source_base(b, tile.outer, tile.group) + first * b.size(plan.position_stride)
        base = b.let(base)
        start = b.let(self._index(self.starts, tile.panel))
        turns = self._index(self.starts, tile.panel + index(1)) - start
        apart = TOGETHER if rows < FEW_ROWS else 1
        sums = [totals, *(self._zeros(rows) for _ in range(apart - 1))]
        with b.loop(index(0), b.let(tirx.Div(turns, index(TOGETHER))), "k") as k:
            for number in range(TOGETHER):
                at = b.let(start + k * index(TOGETHER) + index(number))
                here = b.let(base + self._index(self.places, at))
                there = b.let(at * index(plan.width * plan.depth))
                source = self.inputs[plan.source]
                self._step(source, here, there, sums[number % apart], Shape(rows, vectors))
        lanes = self.isa.lanes
        for row in range(rows if apart > 1 else 0):
            place = row * lanes
            total = sum((load(one, place, lanes) for one in sums[1:]), load(totals, place, lanes))
            b.store(totals, total, place)

    def _index(self, buffer: tirx.Buffer, at: Expr) -> Expr:
        return cast(load(buffer, at), INDEX)

    def _zeros(self, rows: int) -> tirx.Buffer:
        """Room for one more sum of every row."""
        lanes, dtype = self.isa.lanes, self.plan.total_dtype
        found = self.b.local(dtype, rows * lanes, "apart")
        for row in range(rows):
            self.b.store(found, const(0, with_lanes(dtype, lanes)), row * lanes)
        return found
