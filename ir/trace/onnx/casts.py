"""Conversions between element types."""

from typing import Any

import torch

from effc.ir.trace.onnx.call import Call, Tensor
from effc.ir.trace.onnx.elements import BY_DTYPE, FLOAT8, UNSIGNED, Element, element_of
from effc.ir.trace.onnx.elementwise import wide

POWER_OF_TWO = torch.float8_e8m0fnu
WITHOUT_INFINITY = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
EXPONENT_BITS = 0x7F800000


def convert(call: Call, x: Tensor, number: int) -> Tensor:
    """A tensor with the elements of another of ONNX's types.

    Raises:
        UnsupportedError: If it is a text.
    """
    element = element_of(number)
    if element is None:
        raise call.refuse(f"elements of type {number} (texts among them) are not supported")
    call.results[0] = number
    x = wide(x) if element.dtype not in UNSIGNED else x
    if element.is_narrow:
        return to_narrow(x, element)
    if element.dtype in FLOAT8:
        return _to_float8(call, x, element.dtype)
    if element.dtype in UNSIGNED and x.dtype.is_floating_point:
        return x.to(torch.float64).to(torch.int64).to(element.dtype)
    if x.dtype in FLOAT8:
        x = from_float8(x)
    return x.to(element.dtype)


def from_float8(x: Tensor) -> Tensor:
    """float8 values as float32."""
    return x.to(torch.float32)


def to_narrow(x: Tensor, element: Element) -> Tensor:
    """The nearest value of a type narrower than a byte; integers keep their lowest bits."""
    if element.is_float:
        return _to_small_float(x.to(torch.float32), element)
    low, high = (int(limit) for limit in element.range)
    if x.dtype.is_floating_point:
        x = x.to(torch.float32).to(torch.int32)
    codes = x.to(torch.int32) & ((1 << element.bits) - 1)
    if low < 0:
        codes = torch.where(codes > high, codes - (1 << element.bits), codes)
    return codes.to(element.dtype)


def _to_small_float(x: Tensor, element: Element) -> Tensor:
    """Round to the type's grid, half to even, and keep within its range; NaN is 0."""
    x = torch.clamp(torch.nan_to_num(x, 0.0), *element.range)
    smallest = {1: 1.0, 3: 1.0, 2: 0.25}[element.mantissa]
    magnitude = torch.clamp_min(torch.abs(x), smallest)
    power = (magnitude.view(torch.int32) & EXPONENT_BITS).view(torch.float32)
    step = power * 2.0**-element.mantissa
    return torch.round(x / step) * step


def _to_float8(call: Call, x: Tensor, dtype: torch.dtype) -> Tensor:
    if x.dtype in FLOAT8:
        x = from_float8(x)
    x = x.to(torch.float32)
    saturate = bool(call.get("saturate", 1))
    if dtype == POWER_OF_TWO:
        return _to_power_of_two(x, call.get("round_mode", "up"), saturate)
    return saturated(x, dtype) if saturate else _overflowing(x, dtype)


def saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float8 values; what is too large becomes the largest, also infinity."""
    limit = torch.finfo(dtype).max
    return torch.where(torch.isnan(x), x, torch.clamp(x, -limit, limit)).to(dtype)


def _overflowing(x: Tensor, dtype: torch.dtype) -> Tensor:
    """float8 values; what is too large becomes infinity, or NaN where there is none."""
    if dtype == torch.float8_e5m2:
        return x.to(dtype)
    limit = torch.finfo(dtype).max
    rounded = torch.clamp(x, -limit, limit).to(dtype)
    step = 2.0 ** (torch.frexp(torch.tensor(limit))[1].item() - 1 - _fraction_bits(dtype))
    is_past = torch.abs(x) > limit + step / 2
    nan = torch.full_like(x, float("nan")).to(dtype).to(torch.float32)
    return torch.where(is_past | torch.isnan(x), nan, rounded.to(torch.float32)).to(dtype)


def _fraction_bits(dtype: torch.dtype) -> int:
    return 3 if dtype in (torch.float8_e4m3fn, torch.float8_e4m3fnuz) else 2


def _to_power_of_two(x: Tensor, mode: str, saturate: bool) -> Tensor:
    """Powers of two, by their exponent: eight bits, biased by 127; 255 is NaN."""
    bits = torch.abs(x).view(torch.int32)
    exponent, fraction = bits >> 23, bits & 0x7FFFFF
    if mode == "up":
        is_raised = fraction > 0
    elif mode == "nearest":
        is_raised = fraction >= 0x400000
    else:
        is_raised = torch.zeros_like(fraction, dtype=torch.bool)
    is_special = exponent == 255
    code = exponent + torch.where(is_special, 0, is_raised.to(torch.int32))
    if saturate:
        code = torch.where(is_special & (fraction == 0), 254, torch.clamp_max(code, 254))
    code = torch.where(torch.isnan(x), 255, torch.clamp_max(code, 255))
    return code.to(torch.uint8).view(POWER_OF_TWO)


def _cast(call: Call, x: Tensor) -> Tensor:
    return convert(call, x, call.get("to", 1))


def _cast_like(call: Call, x: Tensor, other: Tensor) -> Tensor:
    number = call.element(1) or BY_DTYPE.get(other.dtype, 0)
    return convert(call, x, number)


def _bit_cast(call: Call, x: Tensor) -> Tensor:
    element = element_of(call.get("to", 0))
    source = element_of(call.element(0))
    if element is None or element.is_narrow or (source is not None and source.is_narrow):
        raise call.refuse("bits of elements narrower than a byte are not reinterpreted")
    if torch.bool in (x.dtype, element.dtype):
        return x.view(torch.uint8).view(element.dtype)
    return x.view(element.dtype)


TABLE: dict[str, Any] = {"Cast": _cast, "CastLike": _cast_like, "BitCast": _bit_cast}
