"""Arithmetic on elements.

torch has no arithmetic for unsigned integers of 16 bits and more; it is done in int64, where the
bits of sums and products are the same.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from effc.ir.trace.onnx.call import Call, Tensor
from effc.ir.trace.onnx.elements import UNSIGNED

Function = Callable[..., Tensor]
LOWEST = -(1 << 63)


def wide(x: Tensor) -> Tensor:
    """Unsigned integers torch has no arithmetic for, as int64 with the same bits."""
    return x.to(torch.int64) if x.dtype in UNSIGNED else x


def widened(function: Function) -> Callable[..., Tensor]:
    """A function of tensors of one type, for all types of integers."""

    @functools.wraps(function)
    def rule(call: Call, *values: Tensor) -> Tensor:
        dtype = values[0].dtype
        result = function(*map(wide, values))
        return result.to(dtype) if dtype in UNSIGNED else result

    return rule


def plain(function: Function) -> Callable[..., Tensor]:
    """A function of tensors as an operator's function."""
    return lambda call, *values: function(*values)


def aligned(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """The second operand in the shape the first operator sets broadcast it from.

    Before version 7, `broadcast=1` lines up the second operand with the dimensions of the first
    that start at `axis`.
    """
    axis = call.get("axis")
    if call.version >= 7 or axis is None or not call.get("broadcast", 0):
        return y
    return y.reshape([*y.shape, *[1] * (x.dim() - axis % x.dim() - y.dim())])


def _arithmetic(function: Function) -> Callable[..., Tensor]:
    rule = widened(function)
    return lambda call, x, y: rule(call, x, aligned(call, x, y))


def unsigned_order(x: Tensor) -> Tensor:
    """int64 numbers that are ordered as the unsigned ones with the same bits are."""
    return torch.bitwise_xor(x, LOWEST)


def ordered(x: Tensor) -> Tensor:
    """A form of a tensor that torch can compare."""
    if x.dtype == torch.uint64:
        return unsigned_order(x.to(torch.int64))
    return wide(x)


def _divide(call: Call, x: Tensor, y: Tensor) -> Tensor:
    y = aligned(call, x, y)
    if x.dtype.is_floating_point:
        return x / y
    if x.dtype == torch.uint64:
        return _unsigned_divide(x.to(torch.int64), y.to(torch.int64)).to(torch.uint64)
    return torch.div(wide(x), wide(y), rounding_mode="trunc").to(x.dtype)


def _unsigned_divide(x: Tensor, y: Tensor) -> Tensor:
    """Quotient of unsigned numbers held in int64: by half of the dividend, then corrected."""
    half = torch.bitwise_and(_half(x), ~LOWEST)
    estimate = torch.div(half, torch.where(y > 0, y, 1), rounding_mode="trunc") * 2
    rest = x - estimate * y
    more = (unsigned_order(rest) >= unsigned_order(y)).to(torch.int64)
    at_least = (unsigned_order(x) >= unsigned_order(y)).to(torch.int64)
    return torch.where(y > 0, estimate + more, at_least)


def _half(x: Tensor) -> Tensor:
    """Bits moved right by one, with the sign's moved in."""
    return torch.bitwise_right_shift(x, torch.ones([], dtype=torch.int64))


def _modulo(call: Call, x: Tensor, y: Tensor) -> Tensor:
    function = torch.fmod if call.get("fmod", 0) else torch.remainder
    return widened(function)(call, x, y)


def _power(call: Call, x: Tensor, y: Tensor) -> Tensor:
    y = aligned(call, x, y)
    if x.dtype.is_floating_point:
        return torch.pow(x, wide(y).to(x.dtype))
    return torch.pow(wide(x).to(torch.float64), wide(y).to(torch.float64)).to(x.dtype)


def _extremum(function: Function) -> Callable[..., Tensor]:
    def rule(call: Call, *values: Tensor) -> Tensor:
        if len(values) == 1:
            return values[0]
        if values[0].dtype == torch.uint64:
            order = functools.reduce(function, map(ordered, values))
            return unsigned_order(order).to(torch.uint64)
        return widened(lambda *xs: functools.reduce(function, xs))(call, *values)

    return rule


def _sum(call: Call, *values: Tensor) -> Tensor:
    return functools.reduce(torch.add, values)


def _mean(call: Call, *values: Tensor) -> Tensor:
    return functools.reduce(torch.add, values) / len(values)


def _clip(call: Call, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    if call.version < 11:
        return torch.clamp(x, call.get("min"), call.get("max"))
    result = x
    if low is not None:
        result = _extremum(torch.maximum)(call, result, low)
    return result if high is None else _extremum(torch.minimum)(call, result, high)


def _bit_shift(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """Shifts that leave nothing of a number give zero, or its sign where that moves in."""
    bits = 8 * x.element_size()
    wide_x, wide_y = x.to(torch.int64), y.to(torch.int64)
    is_past = (wide_y < 0) | (wide_y >= bits)
    amount = torch.where(is_past, 0, wide_y)
    if call.get("direction") == "LEFT":
        return torch.where(is_past, 0, torch.bitwise_left_shift(wide_x, amount)).to(x.dtype)
    fill = torch.where(wide_x < 0, -1, 0)
    if x.dtype == torch.uint64:
        half = torch.bitwise_and(_half(wide_x), ~LOWEST)
        logical = torch.bitwise_right_shift(half, (amount - 1).clamp(min=0))
        return torch.where(is_past, 0, torch.where(amount > 0, logical, wide_x)).to(x.dtype)
    return torch.where(is_past, fill, torch.bitwise_right_shift(wide_x, amount)).to(x.dtype)


def _sign(x: Tensor) -> Tensor:
    return torch.sign(wide(x))


def _rounded(function: Function) -> Callable[..., Tensor]:
    return lambda call, x: function(x) if x.dtype.is_floating_point else x


TABLE: dict[str, Any] = {
    "Add": _arithmetic(torch.add),
    "Sub": _arithmetic(torch.sub),
    "Mul": _arithmetic(torch.mul),
    "Div": _divide,
    "Mod": _modulo,
    "Pow": _power,
    "Neg": widened(torch.neg),
    "Abs": widened(torch.abs),
    "Sign": widened(_sign),
    "Max": _extremum(torch.maximum),
    "Min": _extremum(torch.minimum),
    "Sum": _sum,
    "Mean": _mean,
    "Clip": _clip,
    "Sqrt": plain(torch.sqrt),
    "Reciprocal": plain(torch.reciprocal),
    "Exp": plain(torch.exp),
    "Log": plain(torch.log),
    "Erf": plain(torch.erf),
    "Sin": plain(torch.sin),
    "Cos": plain(torch.cos),
    "Tan": plain(torch.tan),
    "Asin": plain(torch.asin),
    "Acos": plain(torch.acos),
    "Atan": plain(torch.atan),
    "Sinh": plain(torch.sinh),
    "Cosh": plain(torch.cosh),
    "Tanh": plain(torch.tanh),
    "Asinh": plain(torch.asinh),
    "Acosh": plain(torch.acosh),
    "Atanh": plain(torch.atanh),
    "Floor": _rounded(torch.floor),
    "Ceil": _rounded(torch.ceil),
    "Round": _rounded(torch.round),
    "BitShift": _bit_shift,
    "BitwiseAnd": widened(torch.bitwise_and),
    "BitwiseOr": widened(torch.bitwise_or),
    "BitwiseXor": widened(torch.bitwise_xor),
    "BitwiseNot": widened(torch.bitwise_not),
}
