"""Operators of ONNX's preview domain."""

import math
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor
from effc.ir.trace.onnx.elements import element_of


def _flex_attention(call: Call, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with graphs that change its scores and its probabilities."""
    dtype, groups = query.dtype, query.shape[1] // key.shape[1]
    if groups != 1:
        key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    default = torch.float64 if dtype == torch.float64 else torch.float32
    element = element_of(call.get("softmax_precision", 0))
    precision = default if element is None else element.dtype
    scale = call.get("scale", 1.0 / math.sqrt(query.shape[-1]))
    scores = torch.matmul(query.to(precision), key.to(precision).transpose(2, 3)) * scale
    if call.get("score_mod") is not None:
        scores = call.subgraph("score_mod", [scores])[0]
    shares = F.softmax(scores, -1)
    if call.get("prob_mod") is not None:
        shares = call.subgraph("prob_mod", [shares])[0]
    return torch.matmul(shares, value.to(precision)).to(dtype)


TABLE: dict[str, Any] = {"FlexAttention": _flex_attention}
