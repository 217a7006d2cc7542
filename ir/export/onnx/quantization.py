"""Quantize and dequantize: the operators of that name where scales are known, else spelled out."""

from typing import Any

import torch
from torch import fx

from effc.ir.export.onnx import codes as known
from effc.ir.export.onnx.graph import Graph, RefusedError, array_of
from effc.ir.export.onnx.rules import Arguments, Rule, dtype_of, operand, rank_of
from effc.ir.export.onnx.shapes import transposed

FLOAT = torch.float32


def _quantize(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x, dtype = given["x"], dtype_of(node)
    low, high = given["qmin"], given["qmax"]
    found = known.scales_of(graph, graph.shape_of(x), given["scale"], given["zero_point"], dtype)
    if found is None:
        inverse = graph.op("Reciprocal", operand(graph, given["scale"], FLOAT))
        return _codes(graph, graph.value(x), inverse, _zeros(graph, given), (low, high), dtype)
    axis = {} if found.axis is None else {"axis": found.axis}
    result = graph.op("QuantizeLinear", graph.value(x), *found.names(graph), **axis)
    limits = torch.iinfo(dtype)
    if (low, high) == (limits.min, limits.max):
        return result
    return graph.op("Clip", result, graph.constant(low, dtype), graph.constant(high, dtype))


def _zeros(graph: Graph, given: Arguments) -> str | None:
    zero = given["zero_point"]
    return None if zero is None else operand(graph, zero, FLOAT)


def _codes(
    graph: Graph,
    x: str,
    inverse: str,
    zeros: str | None,
    limits: tuple[int, int],
    dtype: torch.dtype,
) -> str:
    """`clamp(round(x * inverse) + zero point)`."""
    rounded = graph.op("Round", graph.op("Mul", x, inverse))
    shifted = rounded if zeros is None else graph.op("Add", rounded, zeros)
    ends = [graph.constant(float(limit), FLOAT) for limit in limits]
    return graph.cast(graph.op("Clip", shifted, *ends), dtype)


def _dequantize(graph: Graph, node: fx.Node, given: Arguments) -> str:
    codes = given["codes"]
    shape, dtype = graph.shape_of(codes), dtype_of(codes)
    found = known.scales_of(graph, shape, given["scale"], given["zero_point"], dtype)
    if found is not None:
        axis = {} if found.axis is None else {"axis": found.axis}
        return graph.op("DequantizeLinear", graph.value(codes), *found.names(graph), **axis)
    source = codes.args[0] if codes.args else None
    whole = graph.scalars.get(source) if isinstance(source, fx.Node) else None
    if whole is not None:
        return graph.op("DequantizeLinear", graph.value(codes), *whole)
    values = graph.cast(graph.value(codes), FLOAT)
    if given["zero_point"] is not None:
        values = graph.op("Sub", values, operand(graph, given["zero_point"], FLOAT))
    return graph.op("Mul", values, operand(graph, given["scale"], FLOAT))


def _dynamic(graph: Graph, node: fx.Node, given: Arguments) -> tuple[str, ...]:
    """One scale for all is an operator of its own; it gives the same codes but for rounding."""
    x, low, high, dtype = given["x"], given["qmin"], given["qmax"], given["dtype"]
    axes = sorted(dim % rank_of(x) for dim in given["dims"])
    shape = graph.shape_of(x)
    is_whole = all(place in axes or size == 1 for place, size in enumerate(shape))
    value = graph.value(x)
    if is_whole and (low, high, dtype) == (0, 255, torch.uint8):
        codes, scale, zero = graph.several("DynamicQuantizeLinear", [value], 3)
        graph.scalars[node] = (scale, zero)
        ones = graph.ints([1] * len(shape))
        zero = graph.op("Reshape", graph.cast(zero, torch.int32), ones)
        return codes, graph.op("Reshape", scale, ones), zero
    ends = [graph.constant(float(limit), FLOAT) for limit in (low, high)]
    least = graph.reduced("ReduceMin", value, axes, True)
    least = graph.op("Min", least, graph.constant(0.0, FLOAT))
    most = graph.reduced("ReduceMax", value, axes, True)
    most = graph.op("Max", most, graph.constant(0.0, FLOAT))
    scale = _nonzero(graph, graph.op("Sub", most, least), 1.0 / (high - low))
    inverse = graph.op("Reciprocal", scale)
    shift = graph.op("Round", graph.op("Mul", least, inverse))
    zero = graph.op("Clip", graph.op("Sub", ends[0], shift), *ends)
    codes = _codes(graph, value, inverse, zero, (low, high), dtype)
    return codes, scale, graph.cast(zero, torch.int32)


def _nonzero(graph: Graph, span: str, factor: float) -> str:
    """A scale; 1 where it would be 0."""
    step = graph.op("Mul", span, graph.constant(factor, FLOAT))
    is_positive = graph.op("Greater", step, graph.constant(0.0, FLOAT))
    return graph.op("Where", is_positive, step, graph.constant(1.0, FLOAT))


def _symmetric(graph: Graph, node: fx.Node, given: Arguments) -> tuple[str, ...]:
    x, limit = given["x"], given["limit"]
    axes = sorted(dim % rank_of(x) for dim in given["dims"])
    value = graph.value(x)
    largest = graph.reduced("ReduceMax", graph.op("Abs", value), axes, True)
    scale = _nonzero(graph, largest, 1.0 / limit)
    inverse = graph.op("Reciprocal", scale)
    return _codes(graph, value, inverse, None, (-limit, limit), given["dtype"]), scale


def _grouped(graph: Graph, node: fx.Node, given: Arguments) -> Any:
    found = known.grouped(graph, node, is_transposed=False)
    if found is None:
        raise RefusedError("codes that are computed have no form here")
    return found


def _integer_product(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """Sums of products of codes, and what the zero points add to them."""
    x, weight, zero = given["x"], given["weight"], given["zero_point"]
    columns = transposed(graph, graph.value(weight), [1, 0])
    sums = graph.op("MatMulInteger", graph.value(x), columns)
    if zero is None:
        return sums
    wide = graph.cast(graph.value(weight), torch.int32)
    totals = graph.reduced("ReduceSum", wide, [1], False)
    return graph.op("Sub", sums, graph.op("Mul", graph.value(zero), totals))


def _unpacked(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """Codes in 8 bits: runtimes multiply those, not narrower ones."""
    codes = known.stored(graph, given["stored"])
    if codes is None:
        raise RefusedError("codes that are computed have no form here")
    operands = (codes, given["bits"], given["shape"])
    path = str(given["stored"].target)
    return graph.weight(path, "unpacked", lambda: array_of(node.target(*operands)))


TABLE: dict[str, Rule] = {
    "effc.linear_integer.default": _integer_product,
    "effc.quantize.default": _quantize,
    "effc.dequantize.default": _dequantize,
    "effc.quantize_dynamic.default": _dynamic,
    "effc.quantize_symmetric.default": _symmetric,
    "effc.dequantize_grouped.default": _grouped,
    "effc.unpack_signed.default": _unpacked,
}
