"""Attention and rotary embedding."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor
from effc.ir.trace.onnx.elements import element_of
from effc.ir.trace.onnx.normalization import softmax

LOWEST = -math.inf


@dataclass(frozen=True)
class Mask:
    """Which keys each query may see.

    Attributes:
        allowed: Boolean, broadcasts to [batch, heads, queries, keys]; None for all.
        bias: Added to the scores; None for nothing.
    """

    allowed: Tensor | None = None
    bias: Tensor | None = None

    def __and__(self, other: Tensor) -> "Mask":
        allowed = other if self.allowed is None else self.allowed & other
        return Mask(allowed, self.bias)

    def additive(self, dtype: torch.dtype) -> Tensor | None:
        """As one number per score."""
        if self.allowed is None:
            return None if self.bias is None else self.bias.to(dtype)
        zero = torch.zeros([], dtype=dtype) if self.bias is None else self.bias.to(dtype)
        return torch.where(self.allowed, zero, torch.full([], LOWEST, dtype=dtype))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads * size] to [batch, heads, length, size]."""
    if x.dim() == 4:
        return x
    batch, length, width = x.shape
    return x.reshape([batch, length, heads, width // heads]).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[batch, heads, length, size] to [batch, length, heads * size]."""
    batch, heads, length, size = x.shape
    return x.transpose(1, 2).reshape([batch, length, heads * size])


def _positions(query: Tensor, key: Tensor, offset: Any) -> Tensor:
    """How far in front of each query each key lies, [queries, keys] with a batch or without."""
    rows = torch.arange(query.shape[2]).unsqueeze(1)
    columns = torch.arange(key.shape[2]).unsqueeze(0)
    if isinstance(offset, Tensor):
        offset = offset.reshape([-1, 1, 1, 1])
    return columns - (rows + offset)


def _given_mask(mask: Tensor | None, keys: Any) -> Mask:
    if mask is None:
        return Mask()
    missing = keys - mask.shape[-1]
    if not isinstance(missing, int) or missing > 0:
        filler = 0 if mask.dtype == torch.bool else LOWEST
        mask = torch.ops.aten.constant_pad_nd.default(mask, [0, missing], filler)
    return Mask(allowed=mask) if mask.dtype == torch.bool else Mask(bias=mask)


def _mask(
    call: Call, query: Tensor, key: Tensor, given: Tensor | None, past: Any, lengths: Tensor | None
) -> Mask:
    """Everything that restricts what a query sees, but for plain causal attention."""
    mask = _given_mask(given, key.shape[2])
    offset: Any = past
    if lengths is not None:
        columns = torch.arange(key.shape[2])
        mask = mask & (columns < lengths.reshape([-1, 1, 1, 1]))
        offset = lengths - query.shape[2]
    left, right = call.get("left_window_size", -1), call.get("right_window_size", -1)
    if call.get("is_causal", 0):
        right = 0
    if left >= 0 or right >= 0:
        ahead = _positions(query, key, offset)
        if right >= 0:
            mask = mask & (ahead <= right)
        if left >= 0:
            mask = mask & (ahead >= -left)
    return mask


def _attention(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Any:
    is_flat = query.dim() == 3
    query = split_heads(query, call.get("q_num_heads", 1))
    key, value = (split_heads(x, call.get("kv_num_heads", 1)) for x in (key, value))
    past: Any = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    scale = call.get("scale", 1.0 / math.sqrt(query.shape[-1]))
    windows = call.get("left_window_size", -1) >= 0 or call.get("right_window_size", -1) >= 0
    is_causal_only = bool(call.get("is_causal", 0)) and mask is None and lengths is None
    is_causal_only = is_causal_only and past_key is None and not windows
    if is_plain(call, query):
        found = Mask() if is_causal_only else _mask(call, query, key, mask, past, lengths)
        result, scores = fused(query, key, value, found, is_causal_only, scale), None
    else:
        found = _mask(call, query, key, mask, past, lengths)
        result, scores = _spelled_out(call, query, key, value, found, scale)
    result = join_heads(result) if is_flat else result
    return result, key, value, scores


def is_plain(call: Call, query: Tensor) -> bool:
    """Whether one composite operator computes the same."""
    precision = element_of(call.get("softmax_precision", 0))
    return (
        not call.wants(3)
        and call.get("softcap", 0.0) == 0
        and query.dtype in (torch.float32, torch.float64)
        and (precision is None or precision.dtype == query.dtype)
    )


def fused(
    query: Tensor, key: Tensor, value: Tensor, mask: Mask, is_causal: bool, scale: float
) -> Tensor:
    """Attention as one operator; heads of keys are shared by groups of queries."""
    is_grouped = query.shape[1] != key.shape[1]
    given = mask.allowed if mask.bias is None else mask.additive(query.dtype)
    while given is not None and given.dim() < 2:
        given = given.unsqueeze(0)
    return F.scaled_dot_product_attention(
        query, key, value, given, 0.0, is_causal, scale=scale, enable_gqa=is_grouped
    )


def _spelled_out(
    call: Call, query: Tensor, key: Tensor, value: Tensor, mask: Mask, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention step by step, where an intermediate result or precision is asked for."""
    dtype, groups = query.dtype, query.shape[1] // key.shape[1]
    if groups != 1:
        key, value = (part.repeat_interleave(groups, 1) for part in (key, value))
    root = torch.full([], math.sqrt(scale), dtype=dtype)
    scores = torch.matmul(query * root, (key * root).transpose(2, 3))
    mode, kept = call.get("qk_matmul_output_mode", 0), scores
    softcap = call.get("softcap", 0.0)
    if softcap > 0:
        scores = torch.tanh(scores / softcap) * softcap
    kept = scores if mode == 1 else kept
    bias = mask.additive(dtype)
    scores = scores if bias is None else scores + bias
    kept = scores if mode == 2 else kept
    precision = element_of(call.get("softmax_precision", 0))
    wide = scores if precision is None else scores.to(precision.dtype)
    shares = softmax(wide, -1)
    if bias is not None:  # a query that sees nothing gives zeros
        is_blind = torch.amax(bias, -1, True) == LOWEST
        shares = torch.where(is_blind, torch.zeros([], dtype=shares.dtype), shares)
    shares = shares.to(dtype)
    kept = shares if mode == 3 else kept
    return torch.matmul(shares, value), kept


def rotated(x: Tensor, cosine: Tensor, sine: Tensor, width: int, interleaved: bool) -> Tensor:
    """Rotate pairs of features (Su et al., 2021, arXiv 2104.09864).

    Args:
        x: [batch, heads, length, size].
        cosine: Broadcasts to [batch, heads, length, width / 2].
        sine: Likewise.
        width: How many features are rotated.
        interleaved: Whether pairs are neighbours instead of halves.
    """
    turned, rest = x[..., :width], x[..., width:]
    if interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned[..., : width // 2], turned[..., width // 2 :]
    real, imaginary = cosine * first - sine * second, sine * first + cosine * second
    if interleaved:
        joined = torch.stack([real, imaginary], -1).reshape(turned.shape)
    else:
        joined = torch.cat([real, imaginary], -1)
    return torch.cat([joined, rest], -1) if width != x.shape[-1] else joined


def _rotary(
    call: Call, x: Tensor, cosine: Tensor, sine: Tensor, positions: Tensor | None = None
) -> Tensor:
    heads = split_heads(x, call.get("num_heads", 1))
    if positions is not None:
        cosine, sine = (F.embedding(positions.to(torch.int64), part) for part in (cosine, sine))
    width = call.get("rotary_embedding_dim", 0) or heads.shape[-1]
    is_interleaved = bool(call.get("interleaved", 0))
    result = rotated(heads, cosine.unsqueeze(1), sine.unsqueeze(1), width, is_interleaved)
    return join_heads(result) if x.dim() == 3 else result


TABLE: dict[str, Any] = {"Attention": _attention, "RotaryEmbedding": _rotary}
