"""Products with weights that hold blocks of zeros; what they mean is what dense ones mean.

Lowering turns products into these where kernels that pass over zeros are faster.
"""

import torch
from torch import Tensor

from effc.ir.ops.half import linear_half
from effc.ir.ops.integer import linear_integer

DEPTHS = {torch.float32: 1, torch.bfloat16: 2, torch.int8: 4}  # features of a multiply-add step


@torch.library.custom_op("effc::linear_blocks", mutates_args=())
def linear_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T`.

    Args:
        x: float32 `[..., features]`.
        weight: float32 `[out, features]`.

    Returns:
        float32 `[..., out]`.
    """
    return torch.nn.functional.linear(x, weight)


@linear_blocks.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op("effc::linear_blocks_half", mutates_args=())
def linear_blocks_half(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T` of 16-bit floats, summed in float32.

    Args:
        x: bfloat16 or float16 `[..., features]`.
        weight: The same dtype `[out, features]`.

    Returns:
        float32 `[..., out]`.
    """
    return linear_half(x, weight, None)


@linear_blocks_half.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.float32)


@torch.library.custom_op("effc::linear_blocks_integer", mutates_args=())
def linear_blocks_integer(x: Tensor, weight: Tensor, zero_point: Tensor | None) -> Tensor:
    """Exact integer `(x - zero_point) @ weight.T`.

    Args:
        x: uint8 or int8 codes `[..., features]`.
        weight: int8 codes `[out, features]`.
        zero_point: int32 that broadcasts against the result, or None for 0.

    Returns:
        int32 `[..., out]`.
    """
    return linear_integer(x, weight, zero_point)


@linear_blocks_integer.register_fake
def _(x: Tensor, weight: Tensor, zero_point: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.int32)
