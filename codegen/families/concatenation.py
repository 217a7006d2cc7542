"""A region that follows a concatenation as regions of its parts.

At a point of the whole, which part it lies in would be decided element by element; over one part,
everything is pointwise, and the part writes its slice of the result.
"""

import copy
from dataclasses import replace

from torch import fx

from effc.codegen.region import Region
from effc.ir.opspec import op_name
from effc.ir.symbols import Size, simplify

CAT = "aten.cat.default"


def parts_of(region: Region) -> list[Region]:
    """The regions of a concatenation's parts, or the region itself if it is no such case."""
    joins = [node for node in region.calls if op_name(node) == CAT]
    if len(joins) != 1 or not _is_pointwise_behind(region, joins[0]):
        return [region]
    (join,) = joins
    rank = len(region.shape(join))
    dim = (join.args[1] if len(join.args) > 1 else 0) % rank
    start: Size = 0
    parts = []
    for operand in join.args[0]:
        size = region.shape(operand)[dim]
        parts.append(_part(region, join, operand, dim, start))
        start = simplify(start + size)
    return parts


def _is_pointwise_behind(region: Region, join: fx.Node) -> bool:
    """Whether a region is a concatenation of inputs with pointwise operators behind it."""
    if any(operand.op != "placeholder" for operand in join.args[0]):
        return False
    if any(set(operand.users) != {join} for operand in join.args[0]):
        return False
    shape = region.shape(join)
    if any(output.shape != shape for output in region.outputs):
        return False
    return replace(region, module=_without(region.module, join, join.args[0][0])).is_pointwise


def _part(region: Region, join: fx.Node, operand: fx.Node, dim: int, start: Size) -> Region:
    """The region over one part: its operand stands for the whole, the others are not read."""
    own, whole = region.inputs[region.input_of(operand)], region.shape(join)
    size = own.shape[dim]
    inputs = []
    for node, access in zip(region.placeholders, region.inputs, strict=True):
        if node in join.args[0]:
            inputs.append(own if node is operand else replace(own, dtype=access.dtype))
            continue
        inputs.append(access.aligned_to(whole).part(dim, start, size))
    outputs = tuple(output.part(dim, start, size) for output in region.outputs)
    module = _without(region.module, join, operand)
    return replace(region, module=module, inputs=tuple(inputs), outputs=outputs)


def _without(module: fx.GraphModule, join: fx.Node, operand: fx.Node) -> fx.GraphModule:
    """A region's module in which a part takes the place of a concatenation."""
    result = fx.GraphModule(module, fx.Graph())
    graph = fx.Graph()
    mapping: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node is join:
            mapping[node] = mapping[operand]
            continue
        mapping[node] = graph.node_copy(node, lambda old: mapping[old])
        mapping[node].meta = copy.copy(node.meta)
    result.graph = graph
    return result
