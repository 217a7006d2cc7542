"""Nodes that compute `scale * x + shift` with one constant pair per channel."""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from effc.passes.clean.matching import (
    aten,
    dtype,
    is_call,
    is_number,
    is_tensor,
    rank,
    sizes,
    tensor_of,
)

NORMS = (aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default)
FORWARD = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input)
LINEAR = (aten.linear.default,)
PRODUCERS = (*FORWARD, *TRANSPOSED, *LINEAR)
SCALES = (aten.mul.Tensor, aten.div.Tensor)
SHIFTS = (aten.add.Tensor, aten.sub.Tensor)
TRANSPOSED_GROUPS = 6


@dataclass(frozen=True)
class ChannelMap:
    """`scale * x + shift`.

    Attributes:
        x: The node that is mapped.
        scale: float64 `[channels]`.
        shift: float64 `[channels]`.
    """

    x: fx.Node
    scale: Tensor
    shift: Tensor


def channel_dimension(producer: fx.Node) -> int:
    """The dimension of a convolution's or linear's output that holds its channels."""
    return rank(producer) - 1 if is_call(producer, *LINEAR) else 1


def norm_of(node: fx.Node) -> fx.Node | None:
    """The batch norm in evaluation mode whose output a node is."""
    if is_call(node, operator.getitem) and node.args[1] == 0:
        source: Any = node.args[0]
        return source if is_call(source, NORMS[0]) else None
    is_evaluated = is_call(node, NORMS[1]) and not node.args[5]
    return node if is_evaluated else None


def norm_map(norm: fx.Node) -> ChannelMap | None:
    """The map of a batch norm: `scale = weight / sqrt(variance + eps)`; None if not constant."""
    x: Any = norm.args[0]
    statistics = norm.args[1:5]
    weight, bias, mean, variance = map(tensor_of, statistics)
    if mean is None or variance is None:
        return None
    if any(entry is not None and tensor_of(entry) is None for entry in statistics):
        return None
    eps: Any = norm.args[7 if is_call(norm, NORMS[1]) else 6]
    scale = torch.rsqrt(variance.double() + eps)
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    shift = shift if bias is None else shift + bias.double()
    return ChannelMap(x, scale, shift)


def mapped_producer(node: fx.Node) -> tuple[fx.Node, Any] | None:
    """The convolution or linear whose output a node scales or shifts, and the constant it uses."""
    if not is_call(node, *SCALES, *SHIFTS) or node.kwargs.get("alpha", 1) != 1:
        return None
    first, second = node.args[:2]
    pairs: list[tuple[Any, Any]] = [(first, second)]
    if is_call(node, aten.mul.Tensor, aten.add.Tensor):
        pairs.append((second, first))
    for x, constant in pairs:
        is_known = is_number(constant) or tensor_of(constant) is not None
        if is_call(x, *PRODUCERS) and is_known and dtype(x).is_floating_point:
            return x, constant
    return None


def arithmetic_map(node: fx.Node) -> ChannelMap | None:
    """The map of a scale or shift; None if its constant is not one number per channel."""
    found = mapped_producer(node)
    if found is None or not is_tensor(node) or sizes(node) != sizes(found[0]):
        return None
    x, constant = found
    vector = _per_channel(constant, x)
    if vector is None or dtype(node) != dtype(x):
        return None
    one, zero = torch.ones_like(vector), torch.zeros_like(vector)
    if is_call(node, *SHIFTS):
        return ChannelMap(x, one, -vector if is_call(node, aten.sub.Tensor) else vector)
    return ChannelMap(x, one / vector if is_call(node, aten.div.Tensor) else vector, zero)


def _per_channel(constant: Any, producer: fx.Node) -> Tensor | None:
    """A constant as float64 `[channels]`."""
    dimension = channel_dimension(producer)
    channels = sizes(producer)[dimension]
    value = tensor_of(constant)
    value = torch.tensor(constant) if value is None else value
    if not isinstance(channels, int):
        return None
    if value.numel() == 1:
        return value.double().reshape(1).expand(channels)
    shape = [1] * rank(producer)
    shape[dimension] = channels
    aligned = (1,) * (len(shape) - value.dim()) + tuple(value.shape)
    return value.double().flatten() if list(aligned) == shape else None


def scaled_weight(producer: fx.Node, weight: Tensor, scale: Tensor) -> Tensor:
    """A producer's weight with each output channel multiplied by its scale.

    Args:
        producer: Says where the output channels are.
        weight: `[out, in / groups, ...]`, or `[in, out / groups, ...]` if transposed.
        scale: float64 `[out]`.
    """
    wide = weight.double()
    if not is_call(producer, *TRANSPOSED):
        return (wide * scale.reshape(-1, *[1] * (wide.dim() - 1))).to(weight.dtype)
    groups: Any = producer.args[TRANSPOSED_GROUPS] if len(producer.args) > TRANSPOSED_GROUPS else 1
    by_group = wide.reshape(groups, -1, *wide.shape[1:])
    factors = scale.reshape(groups, 1, -1, *[1] * (wide.dim() - 2))
    return (by_group * factors).reshape(wide.shape).to(weight.dtype)
