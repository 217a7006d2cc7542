"""Products of 16-bit floats whose sums are kept in float32.

Lowering turns products of values that were rounded to bfloat16 (or float16) into these. A product
of two 16-bit floats is exact in float32, so only the order of the additions is the kernel's own.
"""

import torch
from torch import Tensor

from effc.ir.ops.shapes import convolved

HALVES = (torch.bfloat16, torch.float16)


@torch.library.custom_op("effc::linear_half", mutates_args=())
def linear_half(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x @ weight.T + bias` of 16-bit floats, summed in float32.

    Args:
        x: bfloat16 or float16 `[..., features]`.
        weight: The same dtype `[out, features]`.
        bias: float32 `[out]`, or None.

    Returns:
        float32 `[..., out]`.
    """
    return torch.nn.functional.linear(x.float(), weight.float(), bias)


@linear_half.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.float32)


@torch.library.custom_op("effc::conv2d_half", mutates_args=())
def conv2d_half(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Convolution of 16-bit floats, summed in float32.

    Args:
        x: bfloat16 or float16 `[batch, in, height, width]`.
        weight: The same dtype `[out, in / groups, kernel height, kernel width]`.
        bias: float32 `[out]`, or None.
        stride: Vertical and horizontal step.
        padding: Rows and columns of zeros on each side.
        dilation: Distance between filter taps.
        groups: Number of channel groups.

    Returns:
        float32 `[batch, out, height', width']`.
    """
    return torch.nn.functional.conv2d(
        x.float(), weight.float(), bias, stride, padding, dilation, groups
    )


@conv2d_half.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    return convolved(x, weight, stride, padding, dilation, torch.float32)


@torch.library.custom_op("effc::attention_half", mutates_args=())
def attention_half(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    heads_inside: bool,
) -> Tensor:
    """Softmax attention of 16-bit floats; scores and sums are float32.

    Kernels round the exponentials to the inputs' dtype before the second product.

    Args:
        query: bfloat16 or float16 `[..., heads, L, E]`.
        key: The same dtype `[..., key heads, S, E]`.
        value: The same dtype `[..., key heads, S, V]`.
        attn_mask: bool or float32, broadcast over the scores; None for none.
        is_causal: Whether query i sees keys up to i only.
        scale: Factor of the scores; None for `1 / sqrt(E)`.
        enable_gqa: Whether several query heads may share a key head.
        heads_inside: Whether the heads of a position are neighbours in memory.

    Returns:
        float32 `[..., heads, L, V]`.
    """
    result = torch.nn.functional.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), attn_mask, 0.0, is_causal,
        scale=scale, enable_gqa=enable_gqa,
    )  # fmt: skip
    return laid_out(result, heads_inside)


def laid_out(result: Tensor, heads_inside: bool) -> Tensor:
    """The same tensor with the heads of a position, or the positions of a head, in a row."""
    if heads_inside:
        return result.transpose(-2, -3).contiguous().transpose(-2, -3)
    return result.contiguous()


@attention_half.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    heads_inside: bool,
) -> Tensor:
    result = query.new_empty((*query.shape[:-1], value.shape[-1]), dtype=torch.float32)
    return laid_out(result, heads_inside)
