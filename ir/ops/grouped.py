"""Weights in 2 to 8 bits with a scale per group of input features, and products with them.

A row of a weight is a stream of unsigned codes (`ir/encoding.py`); `group` neighbouring features
share a scale and, if there are zero points, a zero point. A weight may be the sum of several such
planes: two planes of the three codes around the zero point are the ternary planes of PTQTP.
"""

import torch
from torch import Tensor

from effc.ir.encoding import packed_nbytes, unpack_codes


def group_count(features: int, group: int) -> int:
    """How many groups a row has; the last one may be smaller."""
    return -(-features // group)


def zero_points(scale: Tensor, zero_point: Tensor | None, bits: int) -> Tensor:
    """The code of 0.0 of every group, uint8 of the shape of the scales."""
    if zero_point is None:
        return torch.full(scale.shape, 1 << (bits - 1), dtype=torch.uint8)
    return unpack_codes(zero_point, bits, scale.shape[-1])


def per_feature(values: Tensor, group: int, features: int) -> Tensor:
    """What every group has, for every feature: `[..., features]`."""
    return values.repeat_interleave(group, -1)[..., :features]


def _centred(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int, group: int, features: int
) -> Tensor:
    """Codes without their zero points, int16 `[..., features]`."""
    zeros = per_feature(zero_points(scale, zero_point, bits), group, features)
    return unpack_codes(codes, bits, features).to(torch.int16) - zeros.to(torch.int16)


@torch.library.custom_op("effc::dequantize_grouped", mutates_args=())
def dequantize_grouped(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bits: int,
    group: int,
    features: int,
    table: Tensor | None = None,
) -> Tensor:
    """The weight that codes stand for: the sum over planes of `(code - zero point) * scale`.

    With a table it is that of `table[code] * scale`: small floats and code books.

    Args:
        codes: uint8 `[rows, nbytes]` or `[planes, rows, nbytes]`, packed as in `pack_codes`.
        scale: float32, bfloat16, or positive float8 (E4M3, E8M0), `[..., rows, groups]`, or
            `[1, 1]` for one scale of the whole weight.
        zero_point: uint8 `[..., rows, zero point nbytes]`, packed as codes are, one per scale; None
            for `2 ** (bits - 1)`.
        bits: Width of a code, 2 to 8; with a table also 1.
        group: Features that share a scale.
        features: Codes per row.
        table: float32 `[2 ** bits]`, finite; then there are no zero points.

    Returns:
        float32 `[rows, features]`.
    """
    if table is None:
        values = _centred(codes, scale, zero_point, bits, group, features).to(torch.float32)
    else:
        values = table[unpack_codes(codes, bits, features).to(torch.int64)]
    planes = values * per_feature(scale.to(torch.float32), group, features)
    return planes if planes.dim() == 2 else planes.sum(0)


@dequantize_grouped.register_fake
def _(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bits: int,
    group: int,
    features: int,
    table: Tensor | None = None,
) -> Tensor:
    _check(codes, scale, zero_point, bits, group, features, least=2 if table is None else 1)
    if table is not None and (zero_point is not None or table.shape != (1 << bits,)):
        raise ValueError(f"a table {list(table.shape)} for codes of {bits} bits")
    return codes.new_empty((codes.shape[-2], features), dtype=torch.float32)


def _check(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bits: int,
    group: int,
    features: int,
    least: int = 2,
) -> None:
    groups = group_count(features, group)
    is_whole = scale.shape == (1, 1) and codes.dim() == 2
    if is_whole and group < features:
        raise ValueError(f"one scale for groups of {group} of {features} features")
    stored = (*(scale if is_whole else codes).shape[:-1], packed_nbytes(groups, bits))
    if not least <= bits <= 8:
        raise ValueError(f"codes of {bits} bits; there are {least} to 8")
    if codes.shape[-1] != packed_nbytes(features, bits):
        raise ValueError(f"{features} codes of {bits} bits in {codes.shape[-1]} bytes")
    if not is_whole and scale.shape != (*codes.shape[:-1], groups):
        raise ValueError(f"scales {list(scale.shape)} of {groups} groups per row of codes")
    if zero_point is not None and zero_point.shape != stored:
        raise ValueError(f"zero points {list(zero_point.shape)} are not {list(stored)}")


@torch.library.custom_op("effc::quantize_symmetric", mutates_args=())
def quantize_symmetric(
    x: Tensor, dims: list[int], limit: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Quantize around zero with a scale found at run time, one per slice over `dims`.

    `scale = max(abs(x)) * (1 / limit)`, 1 for a slice of zeros; the code of 0.0 is 0.

    Args:
        x: float32, any shape.
        dims: Dimensions a slice extends over.
        limit: Largest code; the smallest is its negative.
        dtype: Integer type of the codes.

    Returns:
        Codes of the shape of `x`; scale float32 with `dims` of size 1.
    """
    step = x.abs().amax(dims, keepdim=True) * torch.tensor(1.0 / limit, dtype=torch.float32)
    scale = torch.where(step > 0, step, torch.ones_like(step))
    rounded = torch.round(x * torch.reciprocal(scale)).clamp(-limit, limit)
    return rounded.nan_to_num(0.0).to(dtype), scale


@quantize_symmetric.register_fake
def _(x: Tensor, dims: list[int], limit: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    reduced = {dim % x.dim() for dim in dims}
    shape = [1 if position in reduced else size for position, size in enumerate(x.shape)]
    return torch.empty_like(x, dtype=dtype), x.new_empty(shape)


@torch.library.custom_op("effc::linear_grouped", mutates_args=())
def linear_grouped(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bits: int,
    group: int,
    table: Tensor | None = None,
) -> Tensor:
    """`x @ weight.T` of a weight as in `dequantize_grouped`, in float32.

    Args:
        x: float32 `[..., features]`.
        codes: As in `dequantize_grouped`.
        scale: As in `dequantize_grouped`.
        zero_point: As in `dequantize_grouped`.
        bits: Width of a code.
        group: Features that share a scale.
        table: As in `dequantize_grouped`.

    Returns:
        float32 `[..., rows]`.
    """
    weight = dequantize_grouped(codes, scale, zero_point, bits, group, x.shape[-1], table)
    return torch.nn.functional.linear(x, weight)


@linear_grouped.register_fake
def _(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bits: int,
    group: int,
    table: Tensor | None = None,
) -> Tensor:
    _check(codes, scale, zero_point, bits, group, x.shape[-1], least=2 if table is None else 1)
    return x.new_empty((*x.shape[:-1], codes.shape[-2]), dtype=torch.float32)


@torch.library.custom_op("effc::linear_grouped_integer", mutates_args=())
def linear_grouped_integer(
    x: Tensor, codes: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int, group: int
) -> Tensor:
    """Products of codes, exact within a group, scaled and added up group after group.

    A group's sum is rounded to float32, then `sum * scale + total` to float32 once; of a group's
    planes the first comes first.

    Args:
        x: int8 `[..., features]`.
        codes: As in `dequantize_grouped`.
        scale: As in `dequantize_grouped`.
        zero_point: As in `dequantize_grouped`.
        bits: Width of a code.
        group: Features that share a scale.

    Returns:
        float32 `[..., rows]`.
    """
    features = x.shape[-1]
    weight = _centred(codes, scale, zero_point, bits, group, features).to(torch.float64)
    weight = weight.reshape(-1, *weight.shape[-2:])
    steps = scale.to(torch.float64).reshape(-1, *scale.shape[-2:])
    steps = steps.expand(-1, codes.shape[-2], -1)
    wide = x.to(torch.float64)
    total = torch.zeros((*x.shape[:-1], codes.shape[-2]), dtype=torch.float32)
    for number, first in enumerate(range(0, features, group)):
        here = slice(first, first + group)
        for plane, step in zip(weight, steps, strict=True):
            sums = (wide[..., here] @ plane[:, here].T).to(torch.float32).to(torch.float64)
            total = (sums * step[:, number] + total.to(torch.float64)).to(torch.float32)
    return total


@linear_grouped_integer.register_fake
def _(
    x: Tensor, codes: Tensor, scale: Tensor, zero_point: Tensor | None, bits: int, group: int
) -> Tensor:
    _check(codes, scale, zero_point, bits, group, x.shape[-1])
    return x.new_empty((*x.shape[:-1], codes.shape[-2]), dtype=torch.float32)
