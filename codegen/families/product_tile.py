"""The plan of a product: geometry of its operator, packed weights."""

from dataclasses import replace

import torch
from torch import fx

from effc.codegen.families.product_plan import (
    HALF,
    INTEGER,
    Plan,
    geometry_of,
    zero_point_of,
)
from effc.codegen.isa import Isa
from effc.codegen.kernel import Pack
from effc.codegen.pack import ColumnSums, PackProduct
from effc.codegen.region import Region
from effc.ir.opspec import op_name


def plan_of(region: Region, isa: Isa) -> Plan:
    """Read the geometry of a region's product; its schedule is still open.

    Raises:
        BuildError: If the product is of a form the family does not handle.
    """
    anchor, geometry = geometry_of(region)
    zero_point = zero_point_of(anchor)
    has_static = zero_point is not None and region.weights[region.input_of(zero_point)]
    return Plan(
        anchor=anchor,
        source=region.input_of(anchor.args[0]),
        zero_point=zero_point,
        has_static_zero_point=has_static,
        is_integer=op_name(anchor) in INTEGER,
        is_half=op_name(anchor) in HALF,
        lanes=isa.lanes,
        depth=_depth(anchor, region, isa),
        **geometry,
    )


def with_weights(plan: Plan, region: Region) -> Plan:
    """A scheduled plan that says how its weights are packed."""
    if plan.runtime is not None:
        return plan
    weight, joins_row = region.input_of(plan.anchor.args[1]), plan.tap_width == 1
    packed: dict[str, Pack] = {
        "panels": PackProduct(weight, plan.width, plan.depth, plan.groups, joins_row)
    }
    if plan.is_integer:
        zero_point = plan.zero_point if plan.has_static_zero_point else None
        static = None if zero_point is None else region.input_of(zero_point)
        packed["sums"] = ColumnSums(weight, static, plan.width, plan.groups)
    return replace(plan, packed=packed)


def _depth(anchor: fx.Node, region: Region, isa: Isa) -> int:
    """Features one multiply-add step sums per lane."""
    if op_name(anchor) in INTEGER:
        return isa.dot_width
    is_bfloat16 = region.inputs[region.input_of(anchor.args[0])].dtype == torch.bfloat16
    return 2 if op_name(anchor) in HALF and is_bfloat16 and isa.has_bfloat16 else 1
