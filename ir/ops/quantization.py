"""Quantize and dequantize: affine integer encodings as visible nodes of the graph.

Scales and zero points broadcast against the tensor, so one pair of operators covers per-tensor
(scale `[]`), per-channel (scale `[out, 1, ...]`) and per-token (scale `[..., 1]`) encodings.
"""

import torch
from torch import Tensor

from effc.ir.float_formats import rounded


@torch.library.custom_op("effc::quantize", mutates_args=())
def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    qmin: int,
    qmax: int,
    dtype: torch.dtype,
) -> Tensor:
    """Round to the nearest code: `clamp(round_half_even(x * (1 / scale)) + zero_point)`; NaN is 0.

    Args:
        x: float32, any shape.
        scale: float32, broadcasts against `x`; the step between two codes.
        zero_point: int32, broadcasts against `x`; the code of 0.0. None means 0.
        qmin: Smallest code.
        qmax: Largest code.
        dtype: Integer type of the codes.

    Returns:
        Codes of `dtype` and the shape of `x`.
    """
    rounded = torch.round(x * torch.reciprocal(scale))
    shifted = rounded if zero_point is None else rounded + zero_point.to(torch.float32)
    return shifted.clamp(qmin, qmax).nan_to_num(0.0).to(dtype)


@quantize.register_fake
def _(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    qmin: int,
    qmax: int,
    dtype: torch.dtype,
) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


@torch.library.custom_op("effc::dequantize", mutates_args=())
def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """The values codes stand for: `(codes - zero_point) * scale`.

    Args:
        codes: Integer, any shape.
        scale: float32, broadcasts against `codes`.
        zero_point: int32, broadcasts against `codes`; None means 0.

    Returns:
        float32 of the shape of `codes`.
    """
    shifted = codes.to(torch.int32) if zero_point is None else codes.to(torch.int32) - zero_point
    return shifted.to(torch.float32) * scale


@dequantize.register_fake
def _(codes: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    return torch.empty_like(codes, dtype=torch.float32)


@torch.library.custom_op("effc::round_float", mutates_args=())
def round_float(x: Tensor, format: str) -> Tensor:
    """The nearest finite values of a small float format; ties go to even, NaN becomes 0.

    Args:
        x: float32, any shape.
        format: `e4m3` or `e5m2`.

    Returns:
        float32 of the shape of `x`.
    """
    return rounded(x, format)


@round_float.register_fake
def _(x: Tensor, format: str) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("effc::quantize_dynamic", mutates_args=())
def quantize_dynamic(
    x: Tensor, dims: list[int], qmin: int, qmax: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize with a scale and zero point found at run time, one pair per slice over `dims`.

    With `dims=[-1]` every token (row) has its own pair, with `dims=[1, 2, 3]` every image. The
    range of a slice is its minimum to its maximum, widened to hold 0.0; a slice of zeros gets
    scale 1. `scale = (high - low) * (1 / (qmax - qmin))`,
    `zero_point = qmin - round_half_even(low * (1 / scale))`.

    Args:
        x: float32, any shape.
        dims: Dimensions a slice extends over.
        qmin: Smallest code.
        qmax: Largest code.
        dtype: Integer type of the codes.

    Returns:
        Codes of the shape of `x`; scale float32 and zero point int32 with `dims` of size 1.
    """
    low = x.amin(dims, keepdim=True).clamp(max=0.0)
    high = x.amax(dims, keepdim=True).clamp(min=0.0)
    step = (high - low) * torch.tensor(1.0 / (qmax - qmin), dtype=torch.float32)
    scale = torch.where(step > 0, step, torch.ones_like(step))
    inverse = torch.reciprocal(scale)
    zero_point = (qmin - torch.round(low * inverse)).clamp(qmin, qmax).to(torch.int32)
    codes = (torch.round(x * inverse) + zero_point.to(torch.float32)).clamp(qmin, qmax)
    return codes.nan_to_num(0.0).to(dtype), scale, zero_point


@quantize_dynamic.register_fake
def _(
    x: Tensor, dims: list[int], qmin: int, qmax: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    reduced = {dim % x.dim() for dim in dims}
    shape = [1 if position in reduced else size for position, size in enumerate(x.shape)]
    return (
        torch.empty_like(x, dtype=dtype),
        x.new_empty(shape),
        x.new_empty(shape, dtype=torch.int32),
    )
