"""Convolutions."""

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def window_pads(
    call: Call, space: list[Any], kernel: list[int], strides: list[int], dilations: list[int]
) -> list[Any]:
    """Padding before and after each dimension, all befores first."""
    rank = len(kernel)
    mode = call.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return call.get("pads", [0] * 2 * rank)
    if mode == "VALID":
        return [0] * 2 * rank
    totals = []
    for size, width, stride, dilation in zip(space, kernel, strides, dilations, strict=True):
        steps = -(-size // stride)
        totals.append(max((steps - 1) * stride + dilation * (width - 1) + 1 - size, 0))
    small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
    return small + large if mode == "SAME_UPPER" else large + small


def padded(x: Tensor, pads: list[Any], value: float = 0.0) -> Tensor:
    """Pad the last dimensions; `pads` holds all befores, then all afters."""
    if not any(pads):
        return x
    rank = len(pads) // 2
    flat = [width for i in reversed(range(rank)) for width in (pads[i], pads[rank + i])]
    return torch.ops.aten.constant_pad_nd.default(x, flat, value)


def convolve(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A convolution with the node's strides, pads, dilations and groups.

    Args:
        call: Its attributes are read.
        x: [batch, in, *space].
        weight: [out, in / groups, *kernel].
        bias: [out].
    """
    rank = weight.dim() - 2
    if rank not in CONVOLUTIONS:
        raise call.refuse(f"convolutions over {rank} dimensions are not supported")
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    pads = window_pads(call, list(x.shape[2:]), list(weight.shape[2:]), strides, dilations)
    padding = pads[:rank]
    if pads[:rank] != pads[rank:]:
        x, padding = padded(x, pads), [0] * rank
    return CONVOLUTIONS[rank](x, weight, bias, strides, padding, dilations, call.get("group", 1))


def _transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The natural result is computed without padding, then cut or extended to the wanted size."""
    rank = weight.dim() - 2
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    extra = call.get("output_padding", [0] * rank)
    kernel, space = list(weight.shape[2:]), list(x.shape[2:])
    full = [strides[i] * (space[i] - 1) + dilations[i] * (kernel[i] - 1) + 1 for i in range(rank)]
    pads = _transposed_pads(call, space, full, strides, extra)
    groups = call.get("group", 1)
    if all(pads[i] == pads[rank + i] for i in range(rank)) and all(
        extra[i] < max(strides[i], dilations[i]) for i in range(rank)
    ):
        return TRANSPOSED[rank](x, weight, bias, strides, pads[:rank], extra, groups, dilations)
    result = TRANSPOSED[rank](x, weight, bias, strides, [0] * rank, [0] * rank, groups, dilations)
    if not any(extra):
        return padded(result, [-one for one in pads])
    grown = padded(
        TRANSPOSED[rank](x, weight, None, strides, [0] * rank, [0] * rank, groups, dilations),
        [-one for one in pads[:rank]] + [extra[i] - pads[rank + i] for i in range(rank)],
    )
    return grown if bias is None else grown + bias.reshape([-1, *[1] * rank])


def _transposed_pads(
    call: Call, space: list[Any], full: list[Any], strides: list[int], extra: list[int]
) -> list[Any]:
    rank = len(space)
    mode, shape = call.get("auto_pad", "NOTSET"), call.get("output_shape")
    if shape is None and mode in ("NOTSET", "", "VALID"):
        return call.get("pads", [0] * 2 * rank) if mode != "VALID" else [0] * 2 * rank
    wanted = shape[-rank:] if shape else [space[i] * strides[i] for i in range(rank)]
    totals = [full[i] + extra[i] - wanted[i] for i in range(rank)]
    half = [total // 2 for total in totals]
    rest = [total - part for total, part in zip(totals, half, strict=True)]
    return half + rest if mode == "SAME_UPPER" else rest + half


def _causal(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None, past: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """A depthwise convolution of the past and present, and what the next call needs of it."""
    width = weight.shape[2]
    before = padded(x, [width - 1, 0]) if past is None else torch.cat([past, x], 2)
    result = F.conv1d(before, weight, bias, groups=x.shape[1])
    if call.get("activation", "none") in ("silu", "swish"):
        result = F.silu(result.to(torch.float32)).to(x.dtype)
    elif call.get("activation", "none") != "none":
        raise call.refuse(f"the activation {call.get('activation')} is not known")
    start = before.shape[2] - (width - 1)
    return result, torch.ops.aten.slice.Tensor(before, 2, start, before.shape[2])


TABLE: dict[str, Any] = {
    "Conv": convolve,
    "ConvTranspose": _transpose,
    "CausalConvWithState": _causal,
}
