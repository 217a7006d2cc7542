"""Linear attention of operator set 27: a recurrence over a matrix of state per head."""

import math
from typing import Any

import torch

from effc.ir.trace.onnx.attention import join_heads, split_heads
from effc.ir.trace.onnx.call import Call, Tensor

GATED, CORRECTED = ("gated", "gated_delta"), ("delta", "gated_delta")


def _linear_attention(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past: Tensor | None = None,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Inputs of the standard [batch, steps, heads * size] with heads apart."""
    rule = call.get("update_rule", "gated_delta")
    if rule not in ("linear", *GATED, *CORRECTED):
        raise call.refuse(f"the update rule {rule} is not known")
    for name, given, rules in (("decay", decay, GATED), ("beta", beta, CORRECTED)):
        if given is None and rule in rules:
            raise call.refuse(f"the update rule {rule} needs the input {name}")
    heads, shared = call.get("q_num_heads"), call.get("kv_num_heads")
    query, key, value = (
        split_heads(part, count) for part, count in ((query, heads), (key, shared), (value, shared))
    )
    decay = split_heads(decay, shared) if decay is not None and rule in GATED else None
    if beta is not None:
        beta = split_heads(beta, beta.shape[2]) if rule in CORRECTED else None
    scale = call.get("scale", 0.0) or 1.0 / math.sqrt(query.shape[-1])
    result, state = torch.ops.effc.linear_attention(query, key, value, past, decay, beta, scale)
    return join_heads(result), state


TABLE: dict[str, Any] = {"LinearAttention": _linear_attention}
