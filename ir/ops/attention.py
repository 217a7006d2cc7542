"""Softmax attention on codes: integer products, and probabilities rounded per block of keys."""

import math

import torch
from torch import Tensor

from effc.ir.ops.half import laid_out

LARGEST = 255
BLOCK = 256


@torch.library.custom_op("effc::attention_integer", mutates_args=())
def attention_integer(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_scale: Tensor,
    query_zero_point: Tensor,
    key_scale: Tensor,
    value_scale: Tensor,
    value_zero_point: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    heads_inside: bool,
    block: int,
) -> Tensor:
    """Softmax attention of uint8 codes, with exact products and 8-bit probabilities.

    Scores are `(query - query_zero_point) @ key.T * query_scale * key_scale * scale` plus the mask;
    the zero point of the keys adds the same to all scores of a query, which softmax does not see.
    In every block of `block` keys, the weight of key j is `w_j = round(255 exp(score_j - top))`,
    where `top` is the block's largest score, so a block's weights have a scale of their own:
    `exp(top - largest top)`. The result is the mean of `(value - value_zero_point) * value_scale`
    by these weights; 0 where a query sees no key.

    Args:
        query: Codes `[..., heads, L, E]`.
        key: Codes `[..., key heads, S, E]`.
        value: Codes `[..., key heads, S, V]`.
        query_scale: float32 `[]`.
        query_zero_point: int32 `[]`.
        key_scale: float32 `[]`.
        value_scale: float32 `[]`.
        value_zero_point: int32 `[]`.
        attn_mask: bool or float32, broadcast over the scores; None for none.
        is_causal: Whether query i sees keys up to i only.
        scale: Factor of the scores; None for `1 / sqrt(E)`.
        enable_gqa: Whether several query heads may share a key head.
        heads_inside: Whether the heads of a position are neighbours in memory.
        block: Keys that share a scale of weights.

    Returns:
        float32 `[..., heads, L, V]`.
    """
    wide = [query.double() - query_zero_point, key.double(), value.double() - value_zero_point]
    if enable_gqa:
        wide[1:] = [_repeated(operand, query.shape[-3]) for operand in wide[1:]]
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = wide[0] @ wide[1].transpose(-1, -2) * (query_scale.double() * key_scale * factor)
    scores = _masked(scores, attn_mask, is_causal)
    tops, sums, means = [], [], []
    for scored, values in zip(
        torch.split(scores, block, -1), torch.split(wide[2], block, -2), strict=True
    ):
        top = scored.amax(-1, keepdim=True)
        finite = torch.where(top == -math.inf, torch.zeros_like(top), top)
        weights = torch.round(LARGEST * torch.exp(scored - finite))
        tops.append(top)
        sums.append(weights.sum(-1, keepdim=True))
        means.append(weights @ values)
    highest = torch.stack(tops).amax(0)
    highest = torch.where(highest == -math.inf, torch.zeros_like(highest), highest)
    shares = [torch.exp(top - highest) for top in tops]
    zero = torch.zeros((), dtype=torch.float64)
    total = sum((share * part for share, part in zip(shares, means, strict=True)), start=zero)
    count = sum((share * part for share, part in zip(shares, sums, strict=True)), start=zero)
    mean = torch.where(count > 0, total / count * value_scale, torch.zeros_like(total))
    return laid_out(mean.float(), heads_inside)


def _repeated(operand: Tensor, heads: int) -> Tensor:
    return operand.repeat_interleave(heads // operand.shape[-3], -3)


def _masked(scores: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
    """Scores with the mask added, -infinity where a query must not look."""
    if is_causal:
        sees = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~sees, -math.inf)
    if attn_mask is None:
        return scores
    if attn_mask.dtype == torch.bool:
        return scores.masked_fill(~attn_mask, -math.inf)
    return scores + attn_mask


@attention_integer.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_scale: Tensor,
    query_zero_point: Tensor,
    key_scale: Tensor,
    value_scale: Tensor,
    value_zero_point: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    heads_inside: bool,
    block: int,
) -> Tensor:
    result = query.new_empty((*query.shape[:-1], value.shape[-1]), dtype=torch.float32)
    return laid_out(result, heads_inside)
