"""Operators that move or make elements: where in the operand each result element comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import fx
from tvm import tirx

from effc.codegen import gathers
from effc.codegen.dtypes import held
from effc.codegen.operands import NeedsScalarError
from effc.codegen.tir import Expr, cast, const, index, splat, with_lanes

if TYPE_CHECKING:
    from effc.codegen.evaluate import Evaluator, Point

Rule = Callable[["Evaluator", fx.Node, "Point"], Expr]


def _argument(node: fx.Node, position: int, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else default


def _pad(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    source, pads = node.args[:2]
    fill = _argument(node, 2, 0.0)
    shape = e.region.shape(source)
    inside: Expr = const(True, "bool")
    coordinates = list(point.coordinates)
    for pair in range(len(pads) // 2):
        dim = len(shape) - 1 - pair
        low, high = pads[2 * pair], pads[2 * pair + 1]
        if low == 0 and high == 0:
            continue
        if dim == point.lane_dim:
            raise NeedsScalarError("padding along lanes")
        moved = e.builder.let(coordinates[dim] - index(low))
        inside = tirx.And(inside, tirx.And(moved >= index(0), moved < e.builder.size(shape[dim])))
        coordinates[dim] = e.builder.let(
            tirx.Max(tirx.Min(moved, e.builder.size(shape[dim]) - index(1)), index(0))
        )
    value = e.value(source, point.moved(tuple(coordinates), point.lane_dim))
    filler = const(fill, with_lanes(held(node.meta["val"].dtype), point.lanes))
    return tirx.Select(splat(inside, point.lanes), value, filler)


def _concatenate(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    parts = node.args[0]
    dim = _argument(node, 1, 0) % len(point.coordinates)
    if point.lane_dim == dim:
        raise NeedsScalarError("concatenation along lanes")
    position, begin, result = point.coordinates[dim], index(0), None
    values = []
    for part in parts:
        size = e.builder.size(e.region.shape(part)[dim])
        local = tirx.Max(tirx.Min(position - begin, size - index(1)), index(0))
        coordinates = list(point.coordinates)
        coordinates[dim] = e.builder.let(local)
        values.append((begin, e.value(part, point.moved(tuple(coordinates), point.lane_dim))))
        begin = e.builder.let(begin + size)
    for start, value in values:
        result = value if result is None else tirx.Select(
            splat(position >= start, point.lanes), value, result
        )  # fmt: skip
    return result


def _flip(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    source, dims = node.args[:2]
    shape, rank = e.region.shape(source), len(point.coordinates)
    coordinates = list(point.coordinates)
    for dim in (d % rank for d in dims):
        if dim == point.lane_dim:
            raise NeedsScalarError("flip along lanes")
        coordinates[dim] = e.builder.size(shape[dim]) - index(1) - coordinates[dim]
    return e.value(source, point.moved(tuple(coordinates), point.lane_dim))


def _roll(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    source, shifts = node.args[:2]
    dims = _argument(node, 2, [])
    shape, rank = e.region.shape(source), len(point.coordinates)
    coordinates = list(point.coordinates)
    for shift, dim in zip(shifts, (d % rank for d in dims), strict=True):
        if dim == point.lane_dim:
            raise NeedsScalarError("roll along lanes")
        size = e.builder.size(shape[dim])
        back = tirx.Mod(index(shift), size)
        coordinates[dim] = e.builder.let(tirx.Mod(coordinates[dim] - back + size + size, size))
    return e.value(source, point.moved(tuple(coordinates), point.lane_dim))


def _repeat(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    source = node.args[0]
    shape = e.region.shape(source)
    missing = len(point.coordinates) - len(shape)
    if point.lane_dim is not None:
        raise NeedsScalarError("repeat")
    own = point.coordinates[missing:]
    coordinates = tuple(
        tirx.Mod(c, e.builder.size(size)) for c, size in zip(own, shape, strict=True)
    )
    return e.value(source, type(point)(coordinates))


def _repeat_interleave(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    source, times = node.args[:2]
    dim = _argument(node, 2)
    if dim is None or dim % len(point.coordinates) == point.lane_dim:
        raise NeedsScalarError("repeat_interleave along lanes")
    coordinates = list(point.coordinates)
    coordinates[dim] = tirx.Div(coordinates[dim], e.size(times))
    return e.value(source, point.moved(tuple(coordinates), point.lane_dim))


def _triangle(keep: Callable[[Expr, Expr], Expr]) -> Rule:
    def rule(e: Evaluator, node: fx.Node, point: Point) -> Expr:
        if point.lanes > 1:
            raise NeedsScalarError("triangle")
        diagonal = _argument(node, 1, 0)
        row, column = point.coordinates[-2:]
        value = e.value(node.args[0], point)
        kept = keep(column - row, index(diagonal))
        return tirx.Select(kept, value, const(0, held(node.meta["val"].dtype)))

    return rule


def _nearest(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    """Nearest-neighbour upsampling: source = floor(destination * in / out)."""
    source = node.args[0]
    inner, outer = e.region.shape(source), e.region.shape(node)
    coordinates = list(point.coordinates)
    for dim in (2, 3):
        if dim == point.lane_dim:
            raise NeedsScalarError("upsampling along lanes")
        ratio = tirx.Div(coordinates[dim] * e.builder.size(inner[dim]), e.builder.size(outer[dim]))
        coordinates[dim] = e.builder.let(ratio)
    return e.value(source, point.moved(tuple(coordinates), point.lane_dim))


def _bilinear(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    """Bilinear upsampling: a weighted mean of the four nearest pixels."""
    source, align = node.args[0], bool(node.args[2])
    inner, outer = e.region.shape(source), e.region.shape(node)
    if point.lane_dim in (2, 3):
        raise NeedsScalarError("upsampling along lanes")
    places = [_between(e, point.coordinates[d], inner[d], outer[d], align) for d in (2, 3)]
    total: Expr | None = None
    for row, row_weight in places[0]:
        for column, column_weight in places[1]:
            coordinates = (*point.coordinates[:2], row, column)
            value = e.value(source, point.moved(coordinates, point.lane_dim))
            term = value * splat(row_weight * column_weight, point.lanes)
            total = term if total is None else total + term
    return total


def _between(
    e: Evaluator, position: Expr, inner: Any, outer: Any, align: bool
) -> list[tuple[Expr, Expr]]:
    """The two source coordinates around a destination coordinate, with their weights."""
    b, one, half = e.builder, const(1.0, "float32"), const(0.5, "float32")
    size, wanted = b.size(inner), b.size(outer)
    at, length, target = (cast(value, "float32") for value in (position, size, wanted))
    if align:
        real = at * ((length - one) / tirx.Max(target - one, one))
    else:
        real = tirx.Max((at + half) * (length / target) - half, const(0.0, "float32"))
    low = b.let(tirx.Min(cast(b.let(real), "int64"), size - index(1)))
    high = b.let(tirx.Min(low + index(1), size - index(1)))
    share = b.let(real - cast(low, "float32"))
    return [(low, b.let(one - share)), (high, share)]


def _arange(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    arguments = node.args
    start = arguments[0] if len(arguments) > 1 else 0
    step = arguments[2] if len(arguments) > 2 else 1
    dtype = held(node.meta["val"].dtype)
    position = point.coordinates[0]
    lanes = splat(position, point.lanes)
    if point.lane_dim is not None:
        lanes = tirx.Ramp(position, index(1), point.lanes)
    return cast(lanes, dtype) * _number(e, step, dtype, point) + _number(e, start, dtype, point)


def _number(e: Evaluator, value: Any, dtype: str, point: Point) -> Expr:
    if isinstance(value, int | float):
        return const(value, with_lanes(dtype, point.lanes))
    return splat(cast(e.size(value), dtype), point.lanes)


def _full(position: int | None, default: float) -> Rule:
    def rule(e: Evaluator, node: fx.Node, point: Point) -> Expr:
        value = default if position is None else node.args[position]
        return _number(e, value, held(node.meta["val"].dtype), point)

    return rule


def _permute(e: Evaluator, node: fx.Node, point: Point) -> Expr:
    source, order = node.args[:2]
    order = [dim % len(order) for dim in order]
    coordinates: list[Expr] = [index(0)] * len(order)
    for place, dim in enumerate(order):
        coordinates[dim] = point.coordinates[place]
    lane_dim = None if point.lane_dim is None else order[point.lane_dim]
    return e.value(source, point.moved(tuple(coordinates), lane_dim))


RULES: dict[str, Rule] = {
    **gathers.RULES,
    "constant_pad_nd": _pad,
    "cat": _concatenate,
    "flip": _flip,
    "roll": _roll,
    "repeat": _repeat,
    "repeat_interleave": _repeat_interleave,
    "tril": _triangle(lambda offset, diagonal: offset <= diagonal),
    "triu": _triangle(lambda offset, diagonal: offset >= diagonal),
    "upsample_nearest2d": _nearest,
    "upsample_bilinear2d": _bilinear,
    "arange": _arange,
    "full": _full(1, 0),
    "full_like": _full(1, 0),
    "new_full": _full(2, 0),
    "zeros": _full(None, 0),
    "zeros_like": _full(None, 0),
    "new_zeros": _full(None, 0),
    "ones": _full(None, 1),
    "ones_like": _full(None, 1),
    "new_ones": _full(None, 1),
    "scalar_tensor": _full(0, 0),
    "empty": _full(None, 0),
    "permute": _permute,
}
