"""Integer products and the one rounding that follows them.

Lowering turns `dequantize -> linear` into these, so that the meaning of an integer kernel is exact
arithmetic that a test can compare bit for bit.
"""

import torch
from torch import Tensor

from effc.ir.ops.shapes import convolved


def _centred(codes: Tensor, zero_point: Tensor | None) -> Tensor:
    """Codes without their zero point, in float64, where integer products stay exact."""
    wide = codes.to(torch.float64)
    return wide if zero_point is None else wide - zero_point.to(torch.float64)


@torch.library.custom_op("effc::linear_integer", mutates_args=())
def linear_integer(x: Tensor, weight: Tensor, zero_point: Tensor | None) -> Tensor:
    """Exact integer product `(x - zero_point) @ weight.T`.

    Args:
        x: uint8 or int8 codes `[..., features]`.
        weight: int8 codes `[out, features]`.
        zero_point: int32 `[]` or `[..., 1]`, the code of zero in `x`; None means 0.

    Returns:
        int32 `[..., out]`.
    """
    return (_centred(x, zero_point) @ weight.to(torch.float64).T).to(torch.int32)


@linear_integer.register_fake
def _(x: Tensor, weight: Tensor, zero_point: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.int32)


@torch.library.custom_op("effc::conv2d_integer", mutates_args=())
def conv2d_integer(
    x: Tensor,
    weight: Tensor,
    zero_point: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Exact integer convolution of `x - zero_point`; padding adds zeros, not codes.

    Args:
        x: uint8 or int8 codes `[batch, in, height, width]`.
        weight: int8 codes `[out, in / groups, kernel height, kernel width]`.
        zero_point: int32 `[]` or `[batch, 1, 1, 1]`, the code of zero in `x`; None means 0.
        stride: Vertical and horizontal step.
        padding: Rows and columns of zeros on each side.
        dilation: Distance between filter taps.
        groups: Number of channel groups.

    Returns:
        int32 `[batch, out, height', width']`.
    """
    centred = _centred(x, zero_point)
    product = torch.nn.functional.conv2d(
        centred, weight.to(torch.float64), None, stride, padding, dilation, groups
    )
    return product.to(torch.int32)


@conv2d_integer.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    zero_point: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    return convolved(x, weight, stride, padding, dilation, torch.int32)


@torch.library.custom_op("effc::quantize_scaled", mutates_args=())
def quantize_scaled(
    x: Tensor,
    inverse: Tensor,
    zero_point: Tensor | None,
    qmin: int,
    qmax: int,
    dtype: torch.dtype,
) -> Tensor:
    """`effc.quantize` with the reciprocal of its scale, which kernels then need not compute.

    `clamp(round_half_even(x * inverse) + zero_point)`; NaN is 0.

    Args:
        x: float32, any shape.
        inverse: float32, broadcasts against `x`; one over the scale.
        zero_point: int32, broadcasts against `x`; the code of 0.0. None means 0.
        qmin: Smallest code.
        qmax: Largest code.
        dtype: Integer type of the codes.

    Returns:
        Codes of `dtype` and the shape of `x`.
    """
    rounded = torch.round(x * inverse)
    shifted = rounded if zero_point is None else rounded + zero_point.to(torch.float32)
    return shifted.clamp(qmin, qmax).nan_to_num(0.0).to(dtype)


@quantize_scaled.register_fake
def _(
    x: Tensor,
    inverse: Tensor,
    zero_point: Tensor | None,
    qmin: int,
    qmax: int,
    dtype: torch.dtype,
) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


@torch.library.custom_op("effc::fused_multiply_add", mutates_args=())
def fused_multiply_add(x: Tensor, multiplier: Tensor, addend: Tensor) -> Tensor:
    """`x * multiplier + addend`, rounded once to float32.

    The product of two float32 numbers is exact in float64, so only the sum is rounded twice, which
    differs from a hardware fused multiply-add with a probability of about 2^-29.

    Args:
        x: Integers or float32; integers are rounded to float32 first.
        multiplier: float32, broadcasts against `x`.
        addend: float32, broadcasts against `x`.

    Returns:
        float32 of the broadcast shape.
    """
    wide = x.to(torch.float32).to(torch.float64)
    return (wide * multiplier.to(torch.float64) + addend.to(torch.float64)).to(torch.float32)


@fused_multiply_add.register_fake
def _(x: Tensor, multiplier: Tensor, addend: Tensor) -> Tensor:
    return torch.empty_like(x + multiplier + addend, dtype=torch.float32)


@torch.library.custom_op("effc::requantize", mutates_args=())
def requantize(
    x: Tensor, multiplier: Tensor, addend: Tensor, low: int, high: int, dtype: torch.dtype
) -> Tensor:
    """Codes of `x * multiplier + addend`, from sums of products to the next layer's input.

    The sum is rounded once to float32, limited to `low` and `high`, and rounded half to even; NaN
    is `low`.

    Args:
        x: Integers or float32; integers are rounded to float32 first.
        multiplier: float32, broadcasts against `x`.
        addend: float32, broadcasts against `x`; holds the zero point.
        low: Smallest code.
        high: Largest code.
        dtype: Integer type of the codes.

    Returns:
        Codes of `dtype` and the broadcast shape.
    """
    value = fused_multiply_add(x, multiplier, addend)
    return torch.round(value.clamp(low, high).nan_to_num(low)).to(dtype)


@requantize.register_fake
def _(
    x: Tensor, multiplier: Tensor, addend: Tensor, low: int, high: int, dtype: torch.dtype
) -> Tensor:
    return torch.empty_like(x + multiplier + addend, dtype=dtype)
