"""Operators that pick elements by index, and padding."""

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.errors import ModelError
from effc.ir.trace.onnx.call import (
    Call,
    Tensor,
    is_known,
    number,
    outside_tracing,
    sizes,
)
from effc.ir.trace.onnx.registry import Operator
from effc.ir.trace.onnx.shape import axes_of, known_indices, same_type, slice_axis


def from_start(indices: Tensor, size: Any) -> Tensor:
    """Indices that may count from the end as ones that count from the start; int64."""
    if is_known(indices):
        with outside_tracing():
            wide = indices.to(torch.int64)
            if not bool((wide < 0).any()):
                return wide
    wide = indices.to(torch.int64)
    return torch.where(wide < 0, wide + size, wide)


def _gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    same_type(call)
    axis = call.get("axis", 0) % x.dim()
    if is_known(indices) and indices.dim() == 0:
        return torch.select(x, axis, number(indices))
    if axis == 0 and x.dim() == 2 and is_known(x) and x.dtype.is_floating_point:
        return F.embedding(from_start(indices, x.shape[0]), x)
    if indices.dim() == 1:
        return torch.index_select(x, axis, from_start(indices, x.shape[axis]))
    flat = torch.index_select(x, axis, from_start(indices, x.shape[axis]).reshape(-1))
    return flat.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0) % x.dim()
    return torch.gather(x, axis, from_start(indices, x.shape[axis]))


def linear_index(indices: Tensor, shape: list[Any]) -> Tensor:
    """Row numbers of index tuples in the last dimension, in a tensor of that leading shape."""
    total: Any = None
    stride: Any = 1
    for place in reversed(range(len(shape))):
        part = from_start(indices.select(-1, place), shape[place]) * stride
        total = part if total is None else total + part
        stride = stride * shape[place]
    return total


def _gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Rows of a tensor seen as a matrix, by the number that each index tuple stands for."""
    batch = call.get("batch_dims", 0)
    depth = indices.shape[-1]
    leading, rest = list(x.shape[: batch + depth]), list(x.shape[batch + depth :])
    rows = linear_index(indices, leading[batch:])
    stride: Any = 1
    for size in leading[batch:]:
        stride = stride * size
    for place in reversed(range(batch)):
        numbers = torch.arange(leading[place]).reshape([-1, *[1] * (rows.dim() - 1 - place)])
        rows = rows + numbers * stride
        stride = stride * leading[place]
    flat = x.reshape([stride, *rest])
    return torch.index_select(flat, 0, rows.reshape(-1)).reshape([*rows.shape, *rest])


def _one_hot(call: Call, indices: Tensor, depth: Any, values: Tensor) -> Tensor:
    count = int(number(depth, "its depth"))
    axis = call.get("axis", -1)
    rank = indices.dim() + 1
    axis %= rank
    places = from_start(indices.to(torch.int64), count).unsqueeze(axis)
    numbers = torch.arange(count).reshape([-1 if place == axis else 1 for place in range(rank)])
    return torch.where(places == numbers, values[1], values[0])


def _reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = call.get("time_axis", 0), call.get("batch_axis", 1)
    shape = [1] * x.dim()
    shape[time] = -1
    steps = torch.arange(x.shape[time]).reshape(shape)
    shape = [1] * x.dim()
    shape[batch] = -1
    ends = lengths.reshape(shape)
    return torch.gather(x, time, torch.where(steps < ends, ends - 1 - steps, steps).expand(x.shape))


def _pad(call: Call, x: Tensor, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    widths = call.get("pads", call.get("paddings")) if pads is None else sizes(pads, "its pads")
    chosen = axes_of(call, axes)
    chosen = list(range(x.dim())) if chosen is None else [axis % x.dim() for axis in chosen]
    count = len(chosen)
    for place, axis in enumerate(chosen):  # negative pads cut
        low, high = widths[place], widths[place + count]
        if isinstance(low, int) and isinstance(high, int) and (low < 0 or high < 0):
            end = x.shape[axis] + min(high, 0)
            x = slice_axis(x, axis, -min(low, 0), end, 1)
    before, after = [0] * x.dim(), [0] * x.dim()
    for place, axis in enumerate(chosen):
        low, high = widths[place], widths[place + count]
        before[axis] = max(low, 0) if isinstance(low, int) else low
        after[axis] = max(high, 0) if isinstance(high, int) else high
    mode = call.get("mode", "constant")
    if mode == "constant":
        return _constant_pad(call, x, before, after, value)
    for axis in range(x.dim()):
        if before[axis] or after[axis]:
            x = pad_axis(x, axis, before[axis], after[axis], mode)
    return x


def _constant_pad(call: Call, x: Tensor, before: list[Any], after: list[Any], value: Any) -> Tensor:
    flat = [width for axis in reversed(range(x.dim())) for width in (before[axis], after[axis])]
    if value is None or is_known(value):
        filler = call.get("value", 0.0) if value is None else number(value)
        if not x.dtype.is_floating_point:
            filler = int(filler)
        return torch.ops.aten.constant_pad_nd.default(x, flat, filler)
    inside = torch.ops.aten.constant_pad_nd.default(torch.ones_like(x, dtype=torch.bool), flat, 0)
    return torch.where(inside, torch.ops.aten.constant_pad_nd.default(x, flat, 0), value)


def pad_axis(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """Repeat elements of an axis at its ends: `edge`, `reflect` or `wrap`."""
    size = x.shape[axis]
    if not isinstance(size, int):
        raise ModelError(f"padding with {mode} needs a size known in advance")
    places = []
    for position in range(-before, size + after):
        if mode == "edge":
            places.append(min(max(position, 0), size - 1))
        elif mode == "wrap":
            places.append(position % size)
        else:
            period = max(2 * (size - 1), 1)
            folded = position % period
            places.append(folded if folded < size else period - folded)
    return torch.index_select(x, axis, known_indices(places))


TABLE: dict[str, Any] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": Operator(_one_hot, (1,)),
    "ReverseSequence": _reverse_sequence,
    "Pad": Operator(_pad, (1,)),
}
