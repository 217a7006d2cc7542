"""Linear attention of operator set 27: a recurrence over a matrix of state per head."""

import math
from typing import Any

import torch

from effc.ir.trace.onnx.attention import join_heads, split_heads
from effc.ir.trace.onnx.call import Call, Tensor

LONGEST = 4096
RULES = ("linear", "gated", "delta", "gated_delta")


def _per_step(x: Tensor | None, heads: int) -> Tensor | None:
    """[batch, steps, heads * size] to float32 [batch, heads, steps, size]."""
    return None if x is None else split_heads(x, heads).to(torch.float32)


def _linear_attention(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """State S per head: `S <- exp(g) S`, `v <- beta (v - S^T k)`, `S <- S + k v^T`, `o = S^T q`.

    The decay g belongs to the gated rules, the correction of v to the delta rules (Yang et al.,
    2024, arXiv 2412.06464).
    """
    rule = call.get("update_rule", "gated_delta")
    if rule not in RULES:
        raise call.refuse(f"the update rule {rule} is not known")
    heads, kv_heads = call.get("q_num_heads"), call.get("kv_num_heads")
    steps = query.shape[1]
    if not isinstance(steps, int) or steps > LONGEST:
        raise call.refuse("the number of its steps is not known in advance, or too large")
    q, k, v = _per_step(query, heads), _per_step(key, kv_heads), _per_step(value, kv_heads)
    assert q is not None and k is not None and v is not None  # noqa: PT018
    gate = _per_step(decay, kv_heads)
    rate = None if beta is None else _per_step(beta, kv_heads if beta.shape[2] > 1 else 1)
    scale = call.get("scale", 0.0) or 1.0 / math.sqrt(q.shape[-1])
    if past is None:
        shape = [k.shape[0], kv_heads, k.shape[-1], v.shape[-1]]
        state = torch.zeros(shape, dtype=torch.float32)
    else:
        state = past.to(torch.float32)
    rows = []
    for step in range(steps):
        state = _updated(state, k[:, :, step], v[:, :, step], gate, rate, step)
        seen = state
        if heads != kv_heads:
            seen = state.repeat_interleave(heads // kv_heads, 1)
        rows.append(torch.matmul(q[:, :, step].unsqueeze(2), seen).squeeze(2) * scale)
    result = join_heads(torch.stack(rows, 2)).to(query.dtype)
    return result, state.to(query.dtype if past is None else past.dtype)


def _updated(
    state: Tensor, key: Tensor, value: Tensor, gate: Tensor | None, rate: Tensor | None, step: int
) -> Tensor:
    """The state after one step; key [batch, heads, K], value [batch, heads, V]."""
    if gate is not None:
        state = state * torch.exp(gate[:, :, step]).unsqueeze(-1)
    if rate is not None:
        known = torch.matmul(key.unsqueeze(2), state).squeeze(2)
        value = rate[:, :, step] * (value - known)
    return state + key.unsqueeze(-1) * value.unsqueeze(-2)


TABLE: dict[str, Any] = {"LinearAttention": _linear_attention}
