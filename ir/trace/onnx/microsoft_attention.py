"""Attention operators of ONNX Runtime's own domain."""

import math
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.attention import Mask, fused, join_heads, rotated, split_heads
from effc.ir.trace.onnx.call import Call, Tensor, is_known, number
from effc.ir.trace.onnx.linear_attention import TABLE as LINEAR


def _key_mask(call: Call, mask: Tensor | None, keys: Any) -> Mask:
    """What a mask of tokens lets through: one number per token, or a length per sample."""
    if mask is None:
        return Mask()
    if mask.dim() == 1:
        return Mask(allowed=torch.arange(keys) < mask.reshape([-1, 1, 1, 1]))
    shapes = {2: lambda m: m.unsqueeze(1).unsqueeze(1), 3: lambda m: m.unsqueeze(1)}
    if mask.dim() not in shapes and mask.dim() != 4:
        raise call.refuse(f"masks of {mask.dim()} dimensions are not supported")
    raised = shapes[mask.dim()](mask) if mask.dim() in shapes else mask
    return Mask(allowed=raised > 0)


def _with_bias(mask: Mask, bias: Tensor | None) -> Mask:
    return mask if bias is None else Mask(mask.allowed, bias)


def _refuse_caches(call: Call, *caches: Tensor | None) -> None:
    if any(cache is not None for cache in caches):
        raise call.refuse("shared caches of keys and values are not supported")


def _attention(
    call: Call,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    scores: Tensor | None = None,
    length: Tensor | None = None,
) -> Any:
    """One product makes queries, keys and values; past and present hold keys and values."""
    _refuse_caches(call, length)
    heads = call.get("num_heads")
    packed = F.linear(x, weight.t(), bias)
    sizes = call.get("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    query, key, value = (split_heads(p, heads) for p in torch.split(packed, sizes, -1))
    if call.get("do_rotary", 0):
        raise call.refuse("rotary embedding inside of attention is not supported")
    before: Any = 0
    if past is not None:
        before = past.shape[3]
        key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
    found = _with_bias(_key_mask(call, mask, key.shape[2]), scores)
    if call.get("unidirectional", 0):
        rows = torch.arange(query.shape[2]).unsqueeze(1) + before
        found = found & (torch.arange(key.shape[2]).unsqueeze(0) <= rows)
    scale = call.get("scale", 0.0) or 1.0 / math.sqrt(query.shape[-1])
    result = join_heads(fused(query, key, value, found, False, scale))
    return (result, torch.stack([key, value])) if call.wants(1) else result


def _multi_head(
    call: Call,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    scores: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *rest: Tensor | None,
) -> Any:
    _refuse_caches(call, *rest)
    if key is None or value is None:
        raise call.refuse("packed queries, keys and values are not supported")
    heads = call.get("num_heads")
    if bias is not None:
        sizes = [query.shape[-1], query.shape[-1], bias.shape[0] - 2 * query.shape[-1]]
        parts = torch.split(bias, sizes)
        query = query + parts[0]
        key = key + parts[1] if key.dim() == 3 else key
        value = value + parts[2] if value.dim() == 3 else value
    query, key, value = (split_heads(x, heads) for x in (query, key, value))
    before: Any = 0
    if past_key is not None and past_value is not None:
        before = past_key.shape[2]
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    found = _with_bias(_key_mask(call, mask, key.shape[2]), scores)
    if call.get("unidirectional", 0):
        rows = torch.arange(query.shape[2]).unsqueeze(1) + before
        found = found & (torch.arange(key.shape[2]).unsqueeze(0) <= rows)
    scale = call.get("scale", 0.0) or 1.0 / math.sqrt(query.shape[-1])
    return join_heads(fused(query, key, value, found, False, scale)), key, value


def _grouped_query(
    call: Call,
    query: Tensor,
    key: Tensor | None,
    value: Tensor | None,
    past_key: Tensor | None,
    past_value: Tensor | None,
    lengths: Tensor,
    total: Tensor,
    cosine: Tensor | None = None,
    sine: Tensor | None = None,
    *rest: Tensor | None,
) -> Any:
    """Causal attention whose keys are shared by groups of queries, without padding in a batch."""
    _refuse_caches(call, *rest)
    heads, kv_heads = call.get("num_heads"), call.get("kv_num_heads")
    if call.get("softcap", 0.0) or call.get("local_window_size", -1) > 0:
        raise call.refuse("a soft cap or a window is not supported")
    if key is None or value is None:
        size = query.shape[-1] // (heads + 2 * kv_heads)
        query, key, value = torch.split(query, [heads * size, kv_heads * size, kv_heads * size], -1)
    query = split_heads(query, heads)
    key, value = split_heads(key, kv_heads), split_heads(value, kv_heads)
    before: Any = 0 if past_key is None else past_key.shape[2]
    if call.get("do_rotary", 0) and cosine is not None and sine is not None:
        steps = torch.arange(query.shape[2]) + before
        cosine, sine = (F.embedding(steps, part)[None, None] for part in (cosine, sine))
        width, pairs = 2 * cosine.shape[-1], bool(call.get("rotary_interleaved", 0))
        query, key = (rotated(part, cosine, sine, width, pairs) for part in (query, key))
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    if is_known(total) and int(number(total)) != key.shape[2]:
        raise call.refuse("a cache longer than what it holds is not supported")
    rows = torch.arange(query.shape[2]).unsqueeze(1) + before
    allowed = (torch.arange(key.shape[2]).unsqueeze(0) <= rows) & (
        torch.arange(key.shape[2]) <= lengths.reshape([-1, 1, 1, 1])
    )
    scale = call.get("scale", 0.0) or 1.0 / math.sqrt(query.shape[-1])
    return join_heads(fused(query, key, value, Mask(allowed), False, scale)), key, value


def _rotary(call: Call, x: Tensor, positions: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Positions are one per token, or where the first token of every sample stands."""
    heads = call.get("num_heads", 0)
    if x.dim() == 3 and not heads:
        heads = x.shape[-1] // (2 * cosine.shape[1])
    parts = split_heads(x, heads or 1)
    places = positions.to(torch.int64)
    if places.dim() == 1:
        places = places.reshape([-1, 1]) + torch.arange(parts.shape[2]).unsqueeze(0)
    cosine, sine = (F.embedding(places, part).unsqueeze(1) for part in (cosine, sine))
    width = call.get("rotary_embedding_dim", 0) or parts.shape[-1]
    result = rotated(parts, cosine, sine, width, bool(call.get("interleaved", 0)))
    return join_heads(result) if x.dim() == 3 else result


TABLE: dict[str, Any] = {
    "Attention": _attention,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _grouped_query,
    "RotaryEmbedding": _rotary,
    "LinearAttention": LINEAR["LinearAttention"],
}
