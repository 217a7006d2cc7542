"""Linear attention: a matrix of state per head that every step decays, corrects and adds to."""

import torch
from torch import Tensor


@torch.library.custom_op("effc::linear_attention", mutates_args=())
def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past: Tensor | None,
    decay: Tensor | None,
    beta: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Attention without softmax, step by step, as LinearAttention of ONNX's operator set 27.

    At each step the state S of a key head becomes `exp(decay) S + key value^T`, and the result of a
    query is `scale * S^T query`. With `beta`, what the decayed state already holds for the key is
    replaced: `beta (value - S^T key)` takes the place of the value. So neither gives the rule
    `linear`, one of them `gated` (RetNet, GLA) or `delta` (DeltaNet), both `gated_delta` (Yang et
    al., 2024, arXiv 2412.06464). All is computed in float32.

    Args:
        query: `[batch, heads, steps, K]`.
        key: `[batch, key heads, steps, K]`; neighbouring query heads share a key head.
        value: `[batch, key heads, steps, V]`.
        past: State before the first step, `[batch, key heads, K, V]`; None for zeros.
        decay: Logarithm of the state's factor, `[batch, key heads, steps, K or 1]`.
        beta: How much of the state is replaced, `[batch, key heads or 1, steps, 1]`.
        scale: Factor of the results.

    Returns:
        `[batch, heads, steps, V]` of the query's dtype, and the state after the last step, of the
        dtype of `past`, or of the query without one.
    """
    q, k, v = query.float(), key.float(), value.float()
    groups = query.shape[1] // key.shape[1]
    shape = (*key.shape[:2], key.shape[3], value.shape[3])
    state = torch.zeros(shape) if past is None else past.float()
    rows = []
    for step in range(query.shape[2]):
        if decay is not None:
            state = state * decay[:, :, step].float().exp().unsqueeze(-1)
        new = v[:, :, step]
        if beta is not None:
            known = (k[:, :, step].unsqueeze(-1) * state).sum(-2)
            new = beta[:, :, step].float() * (new - known)
        state = state + k[:, :, step].unsqueeze(-1) * new.unsqueeze(-2)
        seen = state.repeat_interleave(groups, 1)
        rows.append((q[:, :, step].unsqueeze(-1) * seen).sum(-2) * scale)
    empty = torch.zeros((*query.shape[:3], value.shape[3]))
    result = torch.stack(rows, 2) if rows else empty
    kept = state.to(query.dtype if past is None else past.dtype)
    return result.to(query.dtype), kept.clone() if kept is past else kept


@linear_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past: Tensor | None,
    decay: Tensor | None,
    beta: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    batch, heads, steps, width = query.shape
    shared, depth = key.shape[1], value.shape[3]
    if heads % shared:
        raise ValueError(f"linear attention: {heads} heads share {shared} key heads")
    _fits("key", key, (batch, shared, steps, width))
    _fits("value", value, (batch, shared, steps, depth))
    if past is not None:
        _fits("past", past, (batch, shared, width, depth))
    if decay is not None:
        _fits("decay", decay, (batch, shared, steps, 1 if decay.shape[3] == 1 else width))
    if beta is not None:
        _fits("beta", beta, (batch, 1 if beta.shape[1] == 1 else shared, steps, 1))
    dtype = query.dtype if past is None else past.dtype
    state = query.new_empty((batch, shared, width, depth), dtype=dtype)
    return query.new_empty((batch, heads, steps, depth)), state


def _fits(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.dim() != len(shape) or any(a != b for a, b in zip(tensor.shape, shape, strict=True)):
        raise ValueError(f"linear attention: {name} is {list(tensor.shape)}, not {list(shape)}")
