"""Bounds of the elements of integer and truth-value tensors, and values all elements share."""

import math
from typing import Any

import torch
from torch import fx

from effc.ir.symbols import Size
from effc.passes.clean.index_values import Affine, affine
from effc.passes.clean.matching import aten, dtype, is_tensor, sizes, tensor_of

Bounds = tuple[float, float]
DEEPEST = 64
EVERYTHING: Bounds = (-math.inf, math.inf)
UNDECIDED: Bounds = (0, 1)
TRUE: Bounds = (1, 1)
FALSE: Bounds = (0, 0)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

PICKERS = (
    aten.view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.expand.default,
    aten.permute.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.index.Tensor,
    aten.gather.default,
)


def bounds(value: Any, depth: int = DEEPEST) -> Bounds:
    """The smallest and largest value an element of an integer tensor or a number can have."""
    if isinstance(value, bool | int | float):
        return (value, value)
    if depth == 0 or not is_tensor(value) or dtype(value) not in INTEGERS:
        return EVERYTHING
    found = affine(value)
    if found is not None:
        return _affine_bounds(found, sizes(value))
    if value.op == "get_attr":
        return _weight_bounds(value)
    reader = READERS.get(value.target) if value.op == "call_function" else None
    low, high = reader(value, depth - 1) if reader else EVERYTHING
    return (max(low, 0), min(high, 1)) if dtype(value) == torch.bool else (low, high)


def shared_value(value: Any) -> float | None:
    """The number all elements of a tensor have, whatever its dtype; None where that is unknown."""
    if isinstance(value, bool | int | float):
        return value
    if not is_tensor(value):
        return None
    while value.op == "call_function" and value.target in PICKERS:
        value = value.args[0]
    if value.op == "call_function" and value.target is aten.full.default:
        return value.args[1] if isinstance(value.args[1], bool | int | float) else None
    if (tensor := tensor_of(value)) is not None:
        return _shared_by_weight(tensor)
    low, high = bounds(value)
    return low if low == high else None


def _shared_by_weight(tensor: torch.Tensor) -> float | None:
    if tensor.numel() == 0 or tensor.dtype.is_complex:
        return None
    first, last = tensor.flatten()[0], tensor.flatten()[-1]
    if first != last:
        return None
    return first.item() if bool((tensor == first).all()) else None


def _affine_bounds(found: Affine, shape: tuple[Size, ...]) -> Bounds:
    low = high = float(found.base)
    for step, size in zip(found.steps, shape, strict=True):
        reach = step * (size - 1) if isinstance(size, int) else math.copysign(math.inf, step)
        low, high = (low + min(reach, 0), high + max(reach, 0)) if step else (low, high)
    return low, high


def _weight_bounds(node: fx.Node) -> Bounds:
    tensor = tensor_of(node)
    if tensor is None or tensor.numel() == 0:
        return EVERYTHING
    return int(tensor.min()), int(tensor.max())


def _compare(node: fx.Node, depth: int) -> Bounds:
    """Decide a comparison from the bounds of the difference of its operands."""
    low, high = _gap(node.args[0], node.args[1], depth)
    decided: Bounds = COMPARISONS[node.target](low, high)
    return decided


def _gap(first: Any, second: Any, depth: int) -> Bounds:
    mine, theirs = affine(first), affine(second)
    if mine is not None and theirs is not None and is_tensor(first):
        return _affine_bounds(mine.plus(theirs, -1), _broadcast(first, second))
    low, high = bounds(first, depth)
    other_low, other_high = bounds(second, depth)
    return _number(low - other_high, -math.inf), _number(high - other_low, math.inf)


def _broadcast(first: fx.Node, second: Any) -> tuple[Size, ...]:
    mine = sizes(first)
    theirs = sizes(second) if is_tensor(second) else ()
    count = max(len(mine), len(theirs))
    mine, theirs = ((1,) * (count - len(shape)) + shape for shape in (mine, theirs))
    return tuple(theirs[i] if size == 1 else size for i, size in enumerate(mine))


def _number(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value


def _decided(is_true: bool, is_false: bool) -> Bounds:
    return TRUE if is_true else FALSE if is_false else UNDECIDED


COMPARISONS: dict[Any, Any] = {
    aten.ge.Scalar: lambda low, high: _decided(low >= 0, high < 0),
    aten.gt.Scalar: lambda low, high: _decided(low > 0, high <= 0),
    aten.le.Scalar: lambda low, high: _decided(high <= 0, low > 0),
    aten.lt.Scalar: lambda low, high: _decided(high < 0, low >= 0),
    aten.eq.Scalar: lambda low, high: _decided(low == high == 0, low > 0 or high < 0),
    aten.ne.Scalar: lambda low, high: _decided(low > 0 or high < 0, low == high == 0),
}
COMPARISONS |= {
    getattr(aten, name).Tensor: COMPARISONS[getattr(aten, name).Scalar]
    for name in ("ge", "gt", "le", "lt", "eq", "ne")
}


def _are_truth_values(node: fx.Node) -> bool:
    return all(dtype(source) == torch.bool for source in (node, *node.all_input_nodes))


def _and(node: fx.Node, depth: int) -> Bounds:
    if not _are_truth_values(node):
        return EVERYTHING
    (low, high), (other_low, other_high) = (bounds(side, depth) for side in node.args[:2])
    return min(low, other_low), min(high, other_high)


def _or(node: fx.Node, depth: int) -> Bounds:
    if not _are_truth_values(node):
        return EVERYTHING
    (low, high), (other_low, other_high) = (bounds(side, depth) for side in node.args[:2])
    return max(low, other_low), max(high, other_high)


def _not(node: fx.Node, depth: int) -> Bounds:
    if not _are_truth_values(node):
        return EVERYTHING
    low, high = bounds(node.args[0], depth)
    return 1 - high, 1 - low


def _cast(node: fx.Node, depth: int) -> Bounds:
    low, high = bounds(node.args[0], depth)
    if dtype(node) == torch.bool:
        return _decided(low > 0 or high < 0, low == high == 0)
    return (low, high) if dtype(node) == torch.int64 else EVERYTHING


def _pick(node: fx.Node, depth: int) -> Bounds:
    return bounds(node.args[0], depth)


def _running_sum(node: fx.Node, depth: int) -> Bounds:
    return FALSE if bounds(node.args[0], depth) == FALSE else EVERYTHING


READERS: dict[Any, Any] = {
    **dict.fromkeys(COMPARISONS, _compare),
    **dict.fromkeys(PICKERS, _pick),
    aten.bitwise_and.Tensor: _and,
    aten.logical_and.default: _and,
    aten.bitwise_or.Tensor: _or,
    aten.logical_or.default: _or,
    aten.bitwise_not.default: _not,
    aten.logical_not.default: _not,
    aten._to_copy.default: _cast,
    aten.cumsum.default: _running_sum,
    aten.full.default: lambda node, depth: bounds(node.args[1], depth),
}
