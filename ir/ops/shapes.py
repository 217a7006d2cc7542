"""Shapes of results, for tracing."""

import torch
from torch import Tensor


def convolved(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    dtype: torch.dtype,
) -> Tensor:
    """An empty result of a two-dimensional convolution, `[batch, out, height', width']`."""
    size = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i]
        + 1
        for i in range(2)
    ]
    return x.new_empty((x.shape[0], weight.shape[0], *size), dtype=dtype)
