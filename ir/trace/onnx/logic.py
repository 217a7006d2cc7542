"""Comparisons, predicates and selection."""

import math
from collections.abc import Callable
from typing import Any

import torch

from effc.ir.trace.onnx.call import Call, Tensor
from effc.ir.trace.onnx.elementwise import aligned, ordered


def _compare(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda call, x, y: function(ordered(x), ordered(aligned(call, x, y)))


def _logical(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda call, x, y: function(x, aligned(call, x, y))


def _is_infinite(call: Call, x: Tensor) -> Tensor:
    positive, negative = call.get("detect_positive", 1), call.get("detect_negative", 1)
    if positive and negative:
        return torch.isinf(x)
    if not positive and not negative:
        return torch.zeros_like(x, dtype=torch.bool)
    return x == (math.inf if positive else -math.inf)


def _where(call: Call, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


TABLE: dict[str, Any] = {
    "Equal": _compare(torch.eq),
    "Greater": _compare(torch.gt),
    "GreaterOrEqual": _compare(torch.ge),
    "Less": _compare(torch.lt),
    "LessOrEqual": _compare(torch.le),
    "And": _logical(torch.logical_and),
    "Or": _logical(torch.logical_or),
    "Xor": _logical(torch.logical_xor),
    "Not": lambda call, x: torch.logical_not(x),
    "IsNaN": lambda call, x: torch.isnan(x),
    "IsInf": _is_infinite,
    "Where": _where,
}
