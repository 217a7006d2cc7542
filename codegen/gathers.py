"""Operators that pick elements by tensors of indices."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import fx
from tvm import tirx

from effc.codegen.operands import NeedsScalarError
from effc.codegen.tir import Expr, cast, index

if TYPE_CHECKING:
    from effc.codegen.evaluate import Evaluator, Point

Rule = Callable[["Evaluator", fx.Node, "Point"], Expr]


def _embedding(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    weight, indices = node.args[:2]
    rank = len(point.coordinates)
    if point.lane_dim is not None and point.lane_dim != rank - 1:
        raise NeedsScalarError("embedding across rows")
    row = e.value(indices, type(point)(point.coordinates[:-1]))
    row = e.builder.let(cast(row, "int64"))
    lane_dim = None if point.lane_dim is None else 1
    return e.value(weight, point.moved((row, point.coordinates[-1]), lane_dim))


def _wrapped(e: Evaluator, position: Expr, size: Expr) -> Expr:
    """An index that may count from the end, as one that counts from the start."""
    position = e.builder.let(cast(position, "int64"))
    return e.builder.let(tirx.Select(position < index(0), position + size, position))


def _gather_index(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    """aten.index.Tensor: index tensors broadcast together and stand at the first indexed place."""
    source, indices = node.args[:2]
    used = [(dim, idx) for dim, idx in enumerate(indices) if idx is not None]
    if [dim for dim, _ in used] != list(range(used[0][0], used[0][0] + len(used))):
        raise NeedsScalarError("index with a gap")
    block = max(len(e.region.shape(idx)) for _, idx in used)
    first, shape = used[0][0], e.region.shape(source)
    inside = tuple(point.coordinates[first : first + block])
    in_block = point.lane_dim is not None and first <= point.lane_dim < first + block
    if in_block:
        raise NeedsScalarError("index along lanes")
    picked = [_index_value(e, idx, inside, shape[dim]) for dim, idx in used]
    coordinates = (*point.coordinates[:first], *picked, *point.coordinates[first + block :])
    lane_dim = point.lane_dim
    if lane_dim is not None and lane_dim >= first + block:
        lane_dim = lane_dim - block + len(used)
    return e.value(source, point.moved(coordinates, lane_dim))


def _index_value(e: Evaluator, idx: fx.Node, inside: tuple[Expr, ...], size: Any) -> Expr:
    from effc.codegen.evaluate import Point

    shape = e.region.shape(idx)
    own = inside[len(inside) - len(shape) :]
    place = tuple(index(0) if extent == 1 else c for extent, c in zip(shape, own, strict=True))
    return _wrapped(e, e.value(idx, Point(place)), e.builder.size(size))


def _select_rows(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    source, dim, indices = node.args[:3]
    dim %= len(point.coordinates)
    if point.lane_dim == dim:
        raise NeedsScalarError("index_select along lanes")
    chosen = e.value(indices, type(point)((point.coordinates[dim],)))
    coordinates = list(point.coordinates)
    coordinates[dim] = _wrapped(e, chosen, e.builder.size(e.region.shape(source)[dim]))
    return e.value(source, point.moved(tuple(coordinates), point.lane_dim))


def _gather(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    source, dim, indices = node.args[:3]
    if point.lanes > 1:
        raise NeedsScalarError("gather")
    coordinates = list(point.coordinates)
    coordinates[dim] = _wrapped(
        e, e.value(indices, point), e.builder.size(e.region.shape(source)[dim])
    )
    return e.value(source, type(point)(tuple(coordinates)))


RULES: dict[str, Rule] = {
    "embedding": _embedding,
    "index": _gather_index,
    "_unsafe_index": _gather_index,
    "index_select": _select_rows,
    "gather": _gather,
}
