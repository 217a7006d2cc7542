"""Operators of ONNX Runtime's own domain: fused arithmetic, norms and embeddings."""

import math
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor
from effc.ir.trace.onnx.convolution import convolve
from effc.ir.trace.onnx.matrix import TABLE as MATRIX
from effc.ir.trace.onnx.normalization import TABLE as NORMS
from effc.ir.trace.onnx.shape import TABLE as SHAPES


def _fast_gelu(call: Call, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else x + bias, approximate="tanh")


def _bias_gelu(call: Call, x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias)


def _quick_gelu(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call.get("alpha", 1.702) * x)


def _fused_matmul(call: Call, x: Tensor, y: Tensor) -> Tensor:
    """A product of matrices, each perhaps transposed, its batch perhaps too."""
    for flag in ("transBatchA", "transBatchB"):
        if call.get(flag, 0):
            raise call.refuse(f"{flag} is not supported")
    left = x.transpose(-1, -2) if call.get("transA", 0) else x
    right = y.transpose(-1, -2) if call.get("transB", 0) else y
    product, alpha = torch.matmul(left, right), call.get("alpha", 1.0)
    return product if alpha == 1 else product * alpha


def _activated(call: Call, x: Tensor) -> Tensor:
    """The activation in a fused node's attributes."""
    match call.get("activation", ""):
        case "":
            return x
        case "Relu":
            return F.relu(x)
        case "Tanh":
            return torch.tanh(x)
        case "Sigmoid":
            return torch.sigmoid(x)
        case "LeakyRelu":
            slope = call.get("leaky_relu_alpha", _parameters(call, [0.01])[0])
            return F.leaky_relu(x, slope)
        case "Clip":
            low, high = _parameters(call, [-math.inf, math.inf])
            return torch.clamp(x, low, high)
        case "HardSigmoid":
            slope, shift = _parameters(call, [0.2, 0.5])
            return torch.clamp(slope * x + shift, 0.0, 1.0)
    raise call.refuse(f"the activation {call.get('activation')} is not known")


def _parameters(call: Call, defaults: list[float]) -> list[float]:
    given = list(call.get("activation_params", []))
    return given + defaults[len(given) :]


def _fused_conv(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, other: Tensor | None = None
) -> Tensor:
    result = convolve(call, x, weight, bias)
    return _activated(call, result if other is None else result + other)


def _fused_gemm(call: Call, *inputs: Tensor) -> Tensor:
    return _activated(call, MATRIX["Gemm"](call, *inputs))


def _skip_layer_norm(
    call: Call,
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
) -> Any:
    """Layer norm of a sum; the sum is the fourth result."""
    total = x + skip if bias is None else x + bias + skip
    epsilon = call.get("epsilon", 1e-12)
    result = F.layer_norm(total, [scale.shape[0]], scale, shift, epsilon)
    return _with_sum(call, result, total)


def _skip_rms_norm(
    call: Call, x: Tensor, skip: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Any:
    total = x + skip if bias is None else x + bias + skip
    result = F.rms_norm(total, [scale.shape[0]], scale, call.get("epsilon", 1e-12))
    return _with_sum(call, result, total)


def _with_sum(call: Call, result: Tensor, total: Tensor) -> Any:
    if call.wants(1) or call.wants(2):
        raise call.refuse("mean and deviation are results only while training")
    return result, None, None, total


def _embed_layer_norm(
    call: Call,
    tokens: Tensor,
    segments: Tensor | None,
    words: Tensor,
    positions: Tensor,
    segment_table: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    mask: Tensor | None = None,
    places: Tensor | None = None,
) -> Any:
    """Sum of word, position and segment embeddings, normalized; and how long each mask is."""
    length = tokens.shape[1]
    if places is None:
        row = F.embedding(torch.arange(length), positions)
    else:
        row = F.embedding(places.to(torch.int64), positions)
    total = F.embedding(tokens.to(torch.int64), words) + row
    if segments is not None and segment_table is not None:
        total = total + F.embedding(segments.to(torch.int64), segment_table)
    epsilon = call.get("epsilon", 1e-12)
    result = F.layer_norm(total, [words.shape[1]], scale, shift, epsilon)
    if mask is None:
        lengths = torch.zeros([tokens.shape[0]], dtype=torch.int32)
    else:
        lengths = mask.sum(1).to(torch.int32)
    return result, lengths, total


def _rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    return F.rms_norm(x, [scale.shape[0]], scale, call.get("epsilon", 1e-5))


def _bias_add(call: Call, x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    return x + bias + skip


def _bias_softmax(call: Call, x: Tensor, bias: Tensor) -> Tensor:
    return F.softmax(x + bias, -1)


def _bias_split_gelu(call: Call, x: Tensor, bias: Tensor) -> Tensor:
    value, gate = torch.split(x + bias, x.shape[-1] // 2, -1)
    return value * F.gelu(gate)


def _group_norm(call: Call, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Channels come last unless the node says otherwise."""
    is_last = bool(call.get("channels_last", 1))
    rank = x.dim()
    value = x.permute([0, rank - 1, *range(1, rank - 1)]) if is_last else x
    value = F.group_norm(value, call.get("groups"), scale, shift, call.get("epsilon", 1e-5))
    value = F.silu(value) if call.get("activation", 0) else value
    return value.permute([0, *range(2, rank), 1]) if is_last else value


TABLE: dict[str, Any] = {
    "Gelu": lambda call, x: F.gelu(x),
    "FastGelu": _fast_gelu,
    "BiasGelu": _bias_gelu,
    "QuickGelu": _quick_gelu,
    "FusedMatMul": _fused_matmul,
    "TransposeMatMul": _fused_matmul,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "SimplifiedLayerNormalization": _rms_norm,
    "EmbedLayerNormalization": _embed_layer_norm,
    "LayerNormalization": NORMS["LayerNormalization"],
    "BiasAdd": _bias_add,
    "BiasSoftmax": _bias_softmax,
    "BiasSplitGelu": _bias_split_gelu,
    "GroupNorm": _group_norm,
    "Trilu": SHAPES["Trilu"],
}
