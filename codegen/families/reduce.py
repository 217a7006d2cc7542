"""Reductions over any dimensions, and pooling: each output element combines a window of its input.

Vectors run along the output's contiguous dimension, which for channels-last maps is the channels'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx
from tvm import tirx

from effc.codegen.dtypes import stored
from effc.codegen.evaluate import Evaluator, Point
from effc.codegen.families.elementwise import loop_order, unravel
from effc.codegen.isa import Isa
from effc.codegen.kernel import FunctionBuilder, Kernel, Stage
from effc.codegen.operands import NeedsScalarError, argument
from effc.codegen.reduce_lanes import (
    ALL,
    ANY,
    MAXIMUM,
    MINIMUM,
    PRODUCT,
    SUM,
    Reduction,
    as_value,
    total_type,
)
from effc.codegen.region import Region
from effc.codegen.tir import Builder, Expr, cast, const, index, load, splat, with_lanes
from effc.codegen.vectors import Run, Vectors
from effc.ir.errors import BuildError
from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.symbols import Size, product

Coordinates = tuple[Expr, ...]


@dataclass(frozen=True)
class Axis:
    """One loop of a window.

    Attributes:
        dim: The dimension of the input it runs along.
        bounds: First and one-after-last input coordinate for an output point.
        step: Distance between coordinates.
    """

    dim: int
    bounds: Callable[[Builder, Coordinates], tuple[Expr, Expr]]
    step: int = 1


@dataclass(frozen=True)
class Window:
    """What an output element combines.

    Attributes:
        kind: How.
        axes: The loops over the input.
        fixed: For every input dimension that is not looped over, the output dimension it equals.
        divisor: What the total is divided by for an output point, or None.
    """

    kind: Reduction
    axes: tuple[Axis, ...]
    fixed: dict[int, int]
    divisor: Callable[[Builder, Coordinates], Expr] | None = None


def build(region: Region, isa: Isa, name: str, symbols: tuple[str, ...]) -> Kernel:
    """Make the kernel of a region whose first operator combines windows of its input."""
    anchors = [node for node in region.calls if kind_of(node) == Kind.REDUCE]
    anchor = anchors[0]
    types = {access.dtype.itemsize for access in (*region.outputs, region.inputs[0])}
    lanes = isa.lanes * (4 // types.pop()) if types == {1} else isa.lanes
    for count, masked in ((lanes, isa.has_masks), (lanes, False), (1, False)):
        try:
            stage = _stage(region, anchors, name, symbols, Vectors(count, masked))
        except NeedsScalarError:
            continue
        return Kernel("pool" if "pool" in op_name(anchor) else "reduce", (stage,))
    raise BuildError(f"{name}: no form of the kernel can be built")


def _stage(
    region: Region, anchors: list[fx.Node], name: str, symbols: tuple[str, ...], vectors: Vectors
) -> Stage:
    function = FunctionBuilder(name, symbols)
    inputs = [function.param("input", i, stored(a.dtype)) for i, a in enumerate(region.inputs)]
    outputs = [function.param("output", i, stored(a.dtype)) for i, a in enumerate(region.outputs)]
    b, domain = function.builder, region.shape(anchors[0])
    source = region.input_of(anchors[0].args[0])
    windows = {node: window_of(region, node) for node in anchors}
    accesses = [a if i == source else a.aligned_to(domain) for i, a in enumerate(region.inputs)]
    evaluator = Evaluator(region, b, inputs, accesses, pointwise=True)
    *outer, inner = loop_order(region.outputs[0]) if domain else (0,)
    shape = domain or (1,)

    def compute(place: dict[int, Expr], lanes: int, count: Expr | None) -> None:
        coordinates = tuple(place[dim] for dim in range(len(domain)))
        point = Point(coordinates, inner if lanes > 1 else None, lanes, count)
        known = {
            node: finished(
                evaluator, node, windows[node], point,
                total_of(evaluator, node, windows[node], point),
            )
            for node in anchors
        }  # fmt: skip
        scope = evaluator.fresh(known)
        for node, buffer, access in zip(region.results, outputs, region.outputs, strict=True):
            scope.store(buffer, access, scope.value(node, point), point)

    begin, end = function.task_range
    with b.loop(begin, end, "task") as task:
        place = dict(zip(outer, unravel(b, task, [shape[dim] for dim in outer]), strict=True))
        run = Run(index(0), b.size(shape[inner]), shape[inner])
        vectors.cover(b, run, lambda at, lanes, n: compute({**place, inner: at}, lanes, n))
    return function.close(product([shape[dim] for dim in outer]))


def total_of(evaluator: Evaluator, anchor: fx.Node, window: Window, point: Point) -> Expr:
    """Emit the loops over a window; return the total."""
    b, result_type = evaluator.builder, anchor.meta["val"].dtype
    dtype = total_type(result_type)
    total = b.local(dtype, point.lanes, "total")
    b.store(total, const(window.kind.neutral(dtype), with_lanes(dtype, point.lanes)), 0)
    source = anchor.args[0]
    lane_dim = next((d for d, out in window.fixed.items() if out == point.lane_dim), None)
    if point.lane_dim is not None and lane_dim is None:
        raise NeedsScalarError("lanes along a reduced dimension")

    def visit(axes: tuple[Axis, ...], where: dict[int, Expr]) -> None:
        if not axes:
            coordinates = tuple(where[dim] for dim in range(len(where)))
            value = evaluator.fresh({}).value(source, point.moved(coordinates, lane_dim))
            before = b.let(load(total, 0, point.lanes))
            b.store(total, window.kind.combine(before, window.kind.term(value, result_type)), 0)
            return
        axis = axes[0]
        first, last = axis.bounds(b, point.coordinates)
        turns = tirx.Div(last - first + index(axis.step - 1), index(axis.step))
        with b.loop(index(0), b.let(turns), "w") as turn:
            here = b.let(first + turn * index(axis.step))
            visit(axes[1:], {**where, axis.dim: here})

    visit(window.axes, {dim: point.coordinates[out] for dim, out in window.fixed.items()})
    return b.let(load(total, 0, point.lanes))


def finished(
    evaluator: Evaluator, anchor: fx.Node, window: Window, point: Point, total: Expr
) -> Expr:
    """The value of a reduction whose total is known."""
    b, dtype = evaluator.builder, anchor.meta["val"].dtype
    if window.divisor is None:
        return as_value(total, dtype)
    count = cast(window.divisor(b, point.coordinates), total_type(dtype))
    return b.let(total / splat(count, point.lanes))


def window_of(region: Region, anchor: fx.Node) -> Window:
    """Read the window of a reduction or pooling operator.

    Raises:
        BuildError: If there is no code for the operator.
    """
    name = op_name(anchor).split(".")[1]
    if name in PLAIN:
        return _plain(region, anchor, name)
    if name == "max_pool2d":
        return _max_pool(region, anchor)
    if name == "avg_pool2d":
        return _average_pool(region, anchor)
    if name in ("adaptive_avg_pool2d", "_adaptive_avg_pool2d"):
        return _adaptive_pool(region, anchor)
    raise BuildError(f"no code for {op_name(anchor)}")


PLAIN = {
    "sum": SUM, "mean": SUM, "prod": PRODUCT, "amax": MAXIMUM, "amin": MINIMUM, "any": ANY,
    "all": ALL,
}  # fmt: skip


def _whole(size: Size) -> Callable[[Builder, Coordinates], tuple[Expr, Expr]]:
    return lambda b, at: (index(0), b.size(size))


def reduced_dims(region: Region, anchor: fx.Node) -> set[int]:
    """The dimensions of its input a plain reduction runs over."""
    rank = len(region.shape(anchor.args[0]))
    dims = argument(anchor, 1, "dim", None)
    dims = [dims] if isinstance(dims, int) else dims
    return {dim % rank for dim in dims} if dims else set(range(rank))


def keeps_dims(anchor: fx.Node) -> bool:
    """Whether a plain reduction leaves its dimensions with size 1."""
    has_dims = bool(argument(anchor, 1, "dim", None)) or argument(anchor, 1, "dim", None) == 0
    return has_dims and bool(argument(anchor, 2, "keepdim", False))


def _plain(region: Region, anchor: fx.Node, name: str) -> Window:
    shape = region.shape(anchor.args[0])
    reduced, keeps = reduced_dims(region, anchor), keeps_dims(anchor)
    kept = [dim for dim in range(len(shape)) if dim not in reduced]
    fixed = {dim: dim if keeps else place for place, dim in enumerate(kept)}
    axes = tuple(Axis(dim, _whole(shape[dim])) for dim in sorted(reduced))
    count = product([shape[dim] for dim in reduced])
    divisor = (lambda b, at: b.size(count)) if name == "mean" else None
    return Window(PLAIN[name], axes, fixed, divisor)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _sliding(
    size: Size, dim: int, kernel: int, stride: int, padding: int, dilation: int
) -> Callable[[Builder, Coordinates], tuple[Expr, Expr]]:
    """Bounds of a sliding window, cut at the borders of the input."""

    def bounds(b: Builder, at: Coordinates) -> tuple[Expr, Expr]:
        start = b.let(at[dim] * index(stride) - index(padding))
        end = tirx.Min(start + index((kernel - 1) * dilation + 1), b.size(size))
        if padding == 0:
            return start, b.let(end)
        skipped = tirx.Div(
            tirx.Max(index(0) - start, index(0)) + index(dilation - 1), index(dilation)
        )
        return b.let(start + skipped * index(dilation)), b.let(end)

    return bounds


def _max_pool(region: Region, anchor: fx.Node) -> Window:
    shape = region.shape(anchor.args[0])
    kernel = _pair(anchor.args[1])
    stride = _pair(argument(anchor, 2, "stride", None) or kernel)
    padding = _pair(argument(anchor, 3, "padding", 0))
    dilation = _pair(argument(anchor, 4, "dilation", 1))
    axes = tuple(
        Axis(
            dim,
            _sliding(shape[dim], dim, kernel[i], stride[i], padding[i], dilation[i]),
            dilation[i],
        )
        for i, dim in enumerate((2, 3))
    )
    return Window(MAXIMUM, axes, {0: 0, 1: 1})


def _average_pool(region: Region, anchor: fx.Node) -> Window:
    shape = region.shape(anchor.args[0])
    kernel = _pair(anchor.args[1])
    stride = _pair(argument(anchor, 2, "stride", None) or kernel)
    padding = _pair(argument(anchor, 3, "padding", 0))
    counts_padding = argument(anchor, 5, "count_include_pad", True)
    fixed_divisor = argument(anchor, 6, "divisor_override", None)
    bounds = [
        _sliding(shape[dim], dim, kernel[i], stride[i], padding[i], 1)
        for i, dim in enumerate((2, 3))
    ]

    def divisor(b: Builder, at: Coordinates) -> Expr:
        if fixed_divisor:
            return index(fixed_divisor)
        total = index(1)
        for i, dim in enumerate((2, 3)):
            first, last = bounds[i](b, at)
            if counts_padding:
                first = at[dim] * index(stride[i]) - index(padding[i])
                last = tirx.Min(first + index(kernel[i]), b.size(shape[dim]) + index(padding[i]))
            total = total * (last - first)
        return b.let(total)

    axes = tuple(Axis(dim, bounds[i]) for i, dim in enumerate((2, 3)))
    return Window(SUM, axes, {0: 0, 1: 1}, divisor)


def _adaptive_pool(region: Region, anchor: fx.Node) -> Window:
    shape = region.shape(anchor.args[0])
    output = anchor.args[1]

    def bounds(i: int) -> Callable[[Builder, Coordinates], tuple[Expr, Expr]]:
        def of(b: Builder, at: Coordinates) -> tuple[Expr, Expr]:
            size, parts, here = b.size(shape[2 + i]), index(output[i]), at[2 + i]
            first = tirx.Div(here * size, parts)
            last = tirx.Div((here + index(1)) * size + index(output[i] - 1), parts)
            return b.let(first), b.let(last)

        return of

    def divisor(b: Builder, at: Coordinates) -> Expr:
        (top, bottom), (left, right) = bounds(0)(b, at), bounds(1)(b, at)
        return b.let((bottom - top) * (right - left))

    axes = (Axis(2, bounds(0)), Axis(3, bounds(1)))
    return Window(SUM, axes, {0: 0, 1: 1}, divisor)
