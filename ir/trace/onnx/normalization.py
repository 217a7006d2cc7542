"""Normalizations and softmax."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor, is_known
from effc.ir.trace.onnx.elements import element_of


def _batch_norm(
    call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if call.get("training_mode", 0) or (call.version < 14 and len(call.outputs) > 1):
        raise call.refuse("batch norm while training is not supported")
    epsilon = call.get("epsilon", 1e-5)
    if all(map(is_known, (scale, bias, mean, variance))):
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.1, epsilon)
    shape = [-1, *[1] * (x.dim() - 2)]
    scale, bias, mean, variance = (part.reshape(shape) for part in (scale, bias, mean, variance))
    return (x - mean) * (torch.rsqrt(variance + epsilon) * scale) + bias


def _instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.group_norm(x, x.shape[1], scale, bias, call.get("epsilon", 1e-5))


def _group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = call.get("num_groups")
    if call.version < 21:
        times = x.shape[1] // groups
        scale, bias = (part.repeat_interleave(times) for part in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    axis = call.get("axis", -1) % x.dim()
    shape, epsilon = list(x.shape[axis:]), call.get("epsilon", 1e-5)
    fits = list(scale.shape) == shape and (bias is None or list(bias.shape) == shape)
    if fits:
        result = F.layer_norm(x, shape, scale, bias, epsilon)
    else:
        result = F.layer_norm(x, shape, None, None, epsilon) * scale
        result = result if bias is None else result + bias
    if not call.wants(1) and not call.wants(2):
        return result
    dims = list(range(axis, x.dim()))
    wide = x.to(torch.float32) if call.get("stash_type", 1) == 1 else x
    mean = torch.mean(wide, dims, True)
    centred = wide - mean
    inverse = torch.rsqrt(torch.mean(centred * centred, dims, True) + epsilon)
    return result, mean, inverse


def _rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    axis = call.get("axis", -1) % x.dim()
    shape, epsilon = list(x.shape[axis:]), call.get("epsilon", 1e-5)
    stash = element_of(call.get("stash_type", 1))
    if x.dtype == torch.float32 and list(scale.shape) == shape:
        return F.rms_norm(x, shape, scale, epsilon)
    wide = x.to(stash.dtype) if stash is not None else x
    return F.rms_norm(wide, shape, None, epsilon).to(x.dtype) * scale


def _local_response(call: Call, x: Tensor) -> Tensor:
    """Divide by a power of the mean square over neighbouring channels."""
    size = call.get("size")
    alpha, beta, bias = call.get("alpha", 1e-4), call.get("beta", 0.75), call.get("bias", 1.0)
    before, after = (size - 1) // 2, size // 2
    pads = [0, 0] * (x.dim() - 2) + [before, after]
    squares = torch.ops.aten.constant_pad_nd.default(x * x, pads, 0.0)
    channels = x.shape[1]
    parts = [torch.ops.aten.slice.Tensor(squares, 1, i, i + channels) for i in range(size)]
    total = functools.reduce(torch.add, parts)
    return x / (bias + (alpha / size) * total) ** beta


def _lp_norm(call: Call, x: Tensor) -> Tensor:
    axis, power = call.get("axis", -1), call.get("p", 2)
    if power == 1:
        norm = torch.sum(torch.abs(x), [axis], True)
    else:
        norm = torch.sqrt(torch.sum(x * x, [axis], True))
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def _mean_variance(call: Call, x: Tensor) -> Tensor:
    axes = call.get("axes", [0, 2, 3])
    mean = torch.mean(x, axes, True)
    variance = torch.mean(x * x, axes, True) - mean * mean
    return (x - mean) / (torch.sqrt(variance) + 1e-9)


def _rowwise(function: Callable[[Tensor, int], Tensor]) -> Callable[[Call, Tensor], Tensor]:
    """Along an axis; before version 13, over all dimensions from an axis on."""

    def rule(call: Call, x: Tensor) -> Tensor:
        if call.version >= 13:
            return function(x, call.get("axis", -1))
        axis = call.get("axis", 1) % max(x.dim(), 1)
        if axis == x.dim() - 1:
            return function(x, -1)
        return function(x.reshape([*x.shape[:axis], -1]), -1).reshape(x.shape)

    return rule


def softmax(x: Tensor, axis: int) -> Tensor:
    """Softmax; in 16 bits step by step, each rounded, as the standard has it."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        return F.softmax(x, axis)
    powers = torch.exp(x - torch.amax(x, axis, True))
    return powers / torch.sum(powers, axis, True)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    axis %= x.dim()
    numbers = torch.arange(x.shape[axis]).reshape([-1, *[1] * (x.dim() - 1 - axis)])
    return (torch.argmax(x, axis, True) == numbers).to(x.dtype)


TABLE: dict[str, Any] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "LRN": _local_response,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance,
    "Softmax": _rowwise(softmax),
    "LogSoftmax": _rowwise(lambda x, axis: F.log_softmax(x, axis)),
    "Hardmax": _rowwise(_hardmax),
}
