"""Which kernel family makes a region's kernel. Adding a family is one line here."""

import importlib
from typing import Any

from torch import fx

from effc.codegen.families import reduce_pieces, reduce_whole
from effc.codegen.families.depthwise import is_depthwise
from effc.codegen.families.scan import is_scan
from effc.codegen.isa import Isa
from effc.codegen.kernel import Kernel
from effc.codegen.reduce_lanes import REDUCTIONS
from effc.codegen.region import Region
from effc.codegen.schedule import FIXED, Schedule, Space
from effc.ir.opspec import Kind, kind_of, op_name

FAMILIES = {
    "aten.linear.default": "product",
    "effc.linear_integer.default": "product",
    "effc.linear_half.default": "product",
    "effc.linear_blocks.default": "product_blocks",
    "effc.linear_blocks_half.default": "product_blocks",
    "effc.linear_blocks_integer.default": "product_blocks",
    "effc.linear_grouped.default": "lowbit",
    "effc.linear_grouped_integer.default": "lowbit",
    "aten.conv2d.default": "product",
    "effc.conv2d_integer.default": "product",
    "effc.conv2d_half.default": "product",
    "aten.mm.default": "product",
    "aten.bmm.default": "product",
    "aten.matmul.default": "product",
    "aten.scaled_dot_product_attention.default": "attention",
    "effc.attention_half.default": "attention",
    "effc.attention_integer.default": "attention",
}


def family_of(region: Region) -> str:
    """The module below `codegen/families/` that handles a region."""
    anchor = region.anchor()
    if anchor is not None:
        return "depthwise" if is_depthwise(region, anchor) else FAMILIES[op_name(anchor)]
    if any(is_scan(node) for node in region.calls):
        return "scan"
    reductions = [n for n in region.calls if kind_of(n) == Kind.REDUCE]
    if any(not is_row_reduction(region, node) for node in reductions):
        if reduce_whole.applies(region, reductions[0]):
            return "reduce_whole"
        return "reduce_pieces" if reduce_pieces.applies(region) else "reduce"
    if any(op_name(node) in REDUCTIONS for node in region.calls):
        return "rows"
    return "elementwise"


def build(
    region: Region,
    isa: Isa,
    name: str,
    symbols: tuple[str, ...],
    schedule: Schedule | None = None,
) -> Kernel:
    """Make the kernel of a region, with a point of its space or the default."""
    module = _module_of(region)
    if schedule is None or not hasattr(module, "space"):
        return module.build(region, isa, name, symbols)
    return module.build(region, isa, name, symbols, schedule)


def space(region: Region, isa: Isa) -> Space:
    """Every schedule of a region's kernel, the default first; a family may have but one."""
    module = _module_of(region)
    return module.space(region, isa) if hasattr(module, "space") else FIXED


def _module_of(region: Region) -> Any:
    return importlib.import_module(f"effc.codegen.families.{family_of(region)}")


def is_row_reduction(region: Region, node: fx.Node) -> bool:
    """Whether a node reduces exactly the last dimension and keeps it with size 1."""
    if op_name(node) not in REDUCTIONS or len(node.args) < 3 or not node.args[2]:
        return False
    rank = len(region.shape(node.args[0]))
    return [dim % rank for dim in node.args[1]] == [rank - 1]
