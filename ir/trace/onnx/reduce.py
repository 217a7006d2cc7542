"""Reductions, running totals, and the places of extrema."""

from collections.abc import Callable
from typing import Any

import torch

from effc.ir.trace.onnx.call import Call, Tensor, number
from effc.ir.trace.onnx.elements import UNSIGNED
from effc.ir.trace.onnx.elementwise import LOWEST, ordered, unsigned_order, wide
from effc.ir.trace.onnx.registry import Operator
from effc.ir.trace.onnx.shape import axes_of

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _over(function: Reduce) -> Callable[..., Tensor]:
    """A reduction over given axes, or over all, or over none."""

    def rule(call: Call, x: Tensor, axes: Any = None) -> Tensor:
        chosen = axes_of(call, axes)
        keep = bool(call.get("keepdims", 1))
        if not chosen and call.get("noop_with_empty_axes", 0):
            return _unreduced(call, x)
        dims = [axis % x.dim() for axis in chosen] if chosen else list(range(x.dim()))
        dtype = x.dtype
        result = function(wide(x), dims, keep) if dtype != torch.uint64 else function(x, dims, keep)
        return result.to(dtype) if dtype in UNSIGNED else result

    return rule


def _unreduced(call: Call, x: Tensor) -> Tensor:
    """What is done to elements where nothing is reduced."""
    match call.op:
        case "ReduceSumSquare":
            return x * x
        case "ReduceL1" | "ReduceL2":
            return torch.abs(x)
        case "ReduceLogSum":
            return torch.log(x)
    return x


def _sum(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if not dims:
        return x
    return torch.sum(wide(x), dims, keep, dtype=wide(x).dtype)


def _mean(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    if x.dtype.is_floating_point:
        return torch.mean(x, dims, keep) if dims else x
    count: Any = 1
    for dim in dims:
        count = count * x.shape[dim]
    return torch.div(_sum(x, dims, keep), count, rounding_mode="trunc").to(x.dtype)


def _product(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    for dim in sorted(dims, reverse=True):
        x = torch.prod(x, dim, keep, dtype=x.dtype)
    return x


def _extremum(is_largest: bool) -> Reduce:
    def rule(x: Tensor, dims: list[int], keep: bool) -> Tensor:
        function = torch.amax if is_largest else torch.amin
        if any(isinstance(x.shape[dim], int) and x.shape[dim] == 0 for dim in dims):
            return _of_nothing(x, dims, keep, is_largest)
        if x.dtype == torch.bool:
            return function(x.to(torch.uint8), dims, keep).to(torch.bool)
        if x.dtype == torch.uint64:
            return unsigned_order(function(ordered(x), dims, keep)).to(torch.uint64)
        return function(x, dims, keep) if dims else x

    return rule


def _of_nothing(x: Tensor, dims: list[int], keep: bool, is_largest: bool) -> Tensor:
    """The extremum of no numbers: the value every number improves on."""
    if x.dtype == torch.bool:
        filler: Any = not is_largest
    elif x.dtype.is_floating_point:
        filler = float("-inf") if is_largest else float("inf")
    else:
        limits = torch.iinfo(x.dtype)
        filler = limits.min if is_largest else limits.max
    shape = [1 if dim in dims else size for dim, size in enumerate(x.shape)]
    result = torch.full(shape, filler, dtype=x.dtype)
    return result if keep else result.squeeze(dims)


def _l2(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    total = _sum(x * x, dims, keep)
    if x.dtype.is_floating_point:
        return torch.sqrt(total)
    return torch.sqrt(total.to(torch.float64)).to(x.dtype)


def _logarithm(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    total = _sum(x, dims, keep)
    return torch.log(total if x.dtype.is_floating_point else total.to(torch.float64)).to(x.dtype)


def _log_sum_exp(x: Tensor, dims: list[int], keep: bool) -> Tensor:
    """The largest is taken out first; of infinities, nothing is."""
    if any(isinstance(x.shape[dim], int) and x.shape[dim] == 0 for dim in dims):
        return _of_nothing(x, dims, keep, is_largest=True)
    values = x if x.dtype.is_floating_point else x.to(torch.float64)
    largest = torch.amax(values, dims, True) if dims else values
    largest = torch.where(torch.isinf(largest), torch.zeros_like(largest), largest)
    total = torch.log(_sum(torch.exp(values - largest), dims, True)) + largest
    return (total if keep else total.squeeze(dims)).to(x.dtype)


def _arg(is_largest: bool) -> Callable[..., Tensor]:
    def rule(call: Call, x: Tensor) -> Tensor:
        axis, keep = call.get("axis", 0), bool(call.get("keepdims", 1))
        function = torch.argmax if is_largest else torch.argmin
        values = ordered(x)
        if not call.get("select_last_index", 0):
            return function(values, axis, keep)
        return x.shape[axis] - 1 - function(torch.flip(values, [axis]), axis, keep)

    return rule


def _running(function: Callable[..., Tensor], neutral: int) -> Callable[..., Tensor]:
    def rule(call: Call, x: Tensor, axis: Any) -> Tensor:
        dim = int(number(axis, "its axis")) % x.dim()
        dtype = x.dtype
        values = torch.flip(wide(x), [dim]) if call.get("reverse", 0) else wide(x)
        if call.get("exclusive", 0):
            kept = torch.ops.aten.slice.Tensor(values, dim, 0, values.shape[dim] - 1)
            pad = [0, 0] * (x.dim() - 1 - dim) + [1, 0]
            values = torch.ops.aten.constant_pad_nd.default(kept, pad, neutral)
        result = function(values, dim, dtype=values.dtype)
        result = torch.flip(result, [dim]) if call.get("reverse", 0) else result
        return result.to(dtype) if result.dtype != dtype else result

    return rule


def _top(call: Call, x: Tensor, count: Any = None) -> tuple[Tensor, Tensor]:
    """The first of equal values stands before the others."""
    wanted = call.get("k") if count is None else number(count, "how many it keeps")
    axis = call.get("axis", -1) % x.dim()
    is_largest = bool(call.get("largest", 1))
    values = ordered(x)
    found, places = torch.sort(values, dim=axis, descending=is_largest, stable=True)
    kept = torch.ops.aten.slice.Tensor(found, axis, 0, wanted)
    if x.dtype == torch.uint64:
        kept = torch.bitwise_xor(kept, LOWEST)
    return kept.to(x.dtype), torch.ops.aten.slice.Tensor(places, axis, 0, wanted)


TABLE: dict[str, Any] = {
    "ReduceSum": _over(_sum),
    "ReduceMean": _over(_mean),
    "ReduceProd": _over(_product),
    "ReduceMax": _over(_extremum(True)),
    "ReduceMin": _over(_extremum(False)),
    "ReduceL1": _over(lambda x, dims, keep: _sum(torch.abs(x), dims, keep).to(x.dtype)),
    "ReduceL2": _over(_l2),
    "ReduceSumSquare": _over(lambda x, dims, keep: _sum(x * x, dims, keep).to(x.dtype)),
    "ReduceLogSum": _over(_logarithm),
    "ReduceLogSumExp": _over(_log_sum_exp),
    "ArgMax": _arg(True),
    "ArgMin": _arg(False),
    "CumSum": _running(torch.cumsum, 0),
    "CumProd": _running(torch.cumprod, 1),
    "TopK": Operator(_top, (1,)),
}
