"""The plan of a product: geometry of its operator, register tile, packed weights."""

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from effc.codegen.families.elementwise import typical
from effc.codegen.families.product_plan import (
    CHUNK_POSITIONS,
    HALF,
    INTEGER,
    Plan,
    Shape,
    geometry_of,
    zero_point_of,
)
from effc.codegen.isa import Isa
from effc.codegen.kernel import Pack
from effc.codegen.pack import ColumnSums, PackProduct
from effc.codegen.region import Region
from effc.ir.opspec import op_name


def plan_of(region: Region, isa: Isa) -> Plan:
    """Read the geometry of a region's product and choose its tile.

    Raises:
        BuildError: If the product is of a form the family does not handle.
    """
    anchor, geometry = geometry_of(region)
    return _tiled(region, anchor, isa, geometry)


def _tiled(region: Region, anchor: fx.Node, isa: Isa, geometry: dict[str, Any]) -> Plan:
    """Choose the register tile and the order of tasks, and say how weights are packed."""
    is_integer = op_name(anchor) in INTEGER
    zero_point = zero_point_of(anchor)
    has_static = zero_point is not None and region.weights[region.input_of(zero_point)]
    weight = region.input_of(anchor.args[1])
    plan = Plan(
        anchor=anchor,
        source=region.input_of(anchor.args[0]),
        zero_point=zero_point,
        has_static_zero_point=has_static,
        is_integer=is_integer,
        is_half=op_name(anchor) in HALF,
        lanes=isa.lanes,
        depth=_depth(anchor, region, isa),
        **geometry,
    )
    plan = replace(plan, shape=choose_shape(plan, isa))
    plan = replace(plan, chunk=max(CHUNK_POSITIONS // plan.rows, 1) * plan.rows)
    if plan.runtime is not None:
        return plan
    joins_row = plan.tap_width == 1
    packed: dict[str, Pack] = {
        "panels": PackProduct(weight, plan.width, plan.depth, plan.groups, joins_row)
    }
    if is_integer:
        static = region.input_of(zero_point) if has_static and zero_point is not None else None
        packed["sums"] = ColumnSums(weight, static, plan.width, plan.groups)
    return replace(plan, packed=packed, panel_first=_panel_first(plan, isa))


def _depth(anchor: fx.Node, region: Region, isa: Isa) -> int:
    """Features one multiply-add step sums per lane."""
    if op_name(anchor) in INTEGER:
        return isa.dot_width
    is_bfloat16 = region.inputs[region.input_of(anchor.args[0])].dtype == torch.bfloat16
    return 2 if op_name(anchor) in HALF and is_bfloat16 and isa.has_bfloat16 else 1


def _panel_first(plan: Plan, isa: Isa) -> bool:
    """Whether to finish a panel before the next: if all panels together overflow the cache."""
    element = 1 if plan.is_integer else 2 if plan.is_half else 4
    nbytes = plan.taps * plan.features * plan.columns * plan.groups * element
    return nbytes > isa.l2 // 2


def choose_shape(plan: Plan, isa: Isa) -> Shape:
    """The register tile with the best estimated share of useful multiply-adds.

    A step of the inner loop takes `rows * vectors` multiply-adds and loads `rows + vectors` times;
    positions and columns that do not fill the last tile are wasted.
    """
    positions = typical(plan.positions)
    static = isinstance(plan.positions, int)
    best, best_score = Shape(1, 1), 0.0
    for vectors in range(1, min(4, -(-plan.columns // plan.lanes)) + 1):
        most = min((isa.registers - 1 - vectors) // vectors, 14, positions if static else 14)
        for rows in range(1, max(most, 1) + 1):
            padded_rows = -(-positions // rows) * rows if static else positions + rows / 2
            width = vectors * plan.lanes
            whole, rest = divmod(plan.columns, width)
            padded_columns = whole * width + -(-rest // plan.lanes) * plan.lanes
            useful = positions * plan.columns / (padded_rows * padded_columns)
            tile = rows * vectors
            latency = min(1.0, tile / 8)
            score = useful * latency * tile / (tile + 0.35 * (rows + vectors) + 1)
            if score > best_score:
                best, best_score = Shape(rows, vectors), score
    return best
