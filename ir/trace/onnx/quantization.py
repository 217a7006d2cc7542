"""Quantized operators, onto effc's `quantize` and `dequantize`."""

from typing import Any

import torch

from effc.ir.trace.onnx.call import Call, Tensor, folded, is_known, outside_tracing
from effc.ir.trace.onnx.casts import convert, from_float8
from effc.ir.trace.onnx.convolution import convolve, padded, window_pads
from effc.ir.trace.onnx.elements import BY_DTYPE, FLOAT8, UINT8, Element, element_of
from effc.ir.trace.onnx.registry import Operator


def spread(call: Call, x: Tensor, part: Tensor) -> tuple[list[Any], list[Any]]:
    """Shapes in which a tensor and its scales broadcast: split along the axis for blocks.

    Returns:
        The shape of `x` with its axis split, and the shape of the scales.
    """
    if part.dim() == 0 or (
        part.dim() == 1 and part.numel() == 1 and call.get("block_size", 0) == 0
    ):
        return list(x.shape), [1] * x.dim()
    axis = call.get("axis", 1) % x.dim()
    block = call.get("block_size", 0)
    if part.dim() == 1 and not block:
        return list(x.shape), [-1 if dim == axis else 1 for dim in range(x.dim())]
    count = part.shape[axis]
    block = block or -(-x.shape[axis] // count)
    if count * block != x.shape[axis]:
        raise call.refuse("the last block is shorter than the others")
    own = [*x.shape[:axis], count, block, *x.shape[axis + 1 :]]
    return own, [*part.shape[: axis + 1], 1, *part.shape[axis + 1 :]]


def integer_codes(x: Tensor, scale: Tensor, zero_point: Tensor | None, element: Element) -> Tensor:
    """Codes of an integer type; scale and zero point broadcast.

    A scale known in advance makes effc's own operator, which multiplies by its inverse; otherwise
    the division stays what ONNX says it is, since a tie may round to the other side.
    """
    low, high = (int(limit) for limit in element.range)
    if not is_known(scale):
        return _divided(x, scale, zero_point, low, high).to(element.dtype)
    zero = None if zero_point is None else folded(_integers, zero_point)
    step = folded(_floats, scale)
    return torch.ops.effc.quantize(_floats(x), step, zero, low, high, element.dtype)


def _divided(x: Tensor, scale: Tensor, zero_point: Tensor | None, low: int, high: int) -> Tensor:
    """Rounded quotients with their zero point, within limits; int32."""
    rounded = torch.round(x.to(torch.float32) / scale.to(torch.float32))
    if zero_point is not None:
        rounded = rounded + zero_point.to(torch.int32).to(torch.float32)
    return torch.clamp(rounded, low, high).to(torch.int32)


def values_of(codes: Tensor, scale: Tensor, zero_point: Tensor | None) -> Tensor:
    """float32 values of integer codes; scale and zero point broadcast."""
    zero = None if zero_point is None else folded(_integers, zero_point)
    return torch.ops.effc.dequantize(codes, folded(_floats, scale), zero)


def _integers(part: Tensor) -> Tensor:
    return part.to(torch.int32)


def _floats(part: Tensor) -> Tensor:
    return part.to(torch.float32)


def _quantize(call: Call, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    number = call.element(2) if zero_point is not None else call.get("output_dtype", 0)
    if number == 0 and zero_point is not None:
        number = BY_DTYPE.get(zero_point.dtype, 0)
    number = number or UINT8
    element = element_of(number)
    if element is None:
        raise call.refuse(f"codes of type {number} are not supported")
    call.results[0] = number
    own, other = spread(call, x, scale)
    scale = folded(lambda part: part.reshape(other), scale)
    zero = None if zero_point is None else folded(lambda part: part.reshape(other), zero_point)
    rows = x.reshape(own)
    if element.is_float:
        scaled = rows.to(torch.float32) / scale.to(torch.float32)
        return convert(call, scaled, number).reshape(x.shape)
    return integer_codes(rows, scale, zero, element).reshape(x.shape)


def _dequantize(call: Call, x: Tensor, scale: Tensor, zero_point: Tensor | None = None) -> Tensor:
    element = element_of(call.get("output_dtype", 0))
    dtype = scale.dtype if element is None else element.dtype
    own, other = spread(call, x, scale)
    scale = folded(lambda part: part.reshape(other), scale)
    codes = folded(lambda part: part.reshape(own), x)
    if codes.dtype in FLOAT8 or codes.dtype.is_floating_point:
        values = from_float8(codes) * scale.to(torch.float32)
    else:
        zero = None
        if zero_point is not None:
            zero = folded(lambda part: part.reshape(other), zero_point)
        values = values_of(codes, scale, zero)
    return values.reshape(x.shape).to(dtype)


def _dynamic(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The range is widened to hold 0, and its ends become 0 and 255."""
    low = torch.clamp_max(torch.amin(x, list(range(x.dim()))), 0.0)
    high = torch.clamp_min(torch.amax(x, list(range(x.dim()))), 0.0)
    scale = (high - low) / 255.0
    zero_point = torch.clamp(torch.round(-low / scale), 0, 255).to(torch.int32)
    codes = _divided(x, scale, zero_point, 0, 255)
    return codes.to(torch.uint8), scale, zero_point.to(torch.uint8)


def along(part: Tensor | None, rank: int, axis: int) -> Tensor | None:
    """A scale or zero point, one per tensor or one per slice of an axis, ready to broadcast."""
    if part is None or part.dim() > 1:
        return part
    shape = [-1 if dim == axis % rank else 1 for dim in range(rank)]
    return folded(lambda x: x.reshape([] if part.numel() == 1 else shape), part)


def _linear_matmul(
    call: Call,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    y: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    scale: Tensor,
    zero: Tensor,
) -> Tensor:
    left = values_of(x, _rows(x_scale, x), _rows(x_zero, x))
    right = values_of(y, _columns(y_scale, y), _columns(y_zero, y))
    product = torch.matmul(left, right)
    element = element_of(call.element(7) or BY_DTYPE[zero.dtype])
    assert element is not None
    return integer_codes(product, _rows(scale, product), _rows(zero, product), element)


def _rows(part: Tensor, x: Tensor) -> Tensor:
    """One number per row, or one for all."""
    if part.numel() == 1:
        return single(part)
    return part.unsqueeze(-1) if part.dim() == 1 and x.dim() > 1 else part


def single(part: Tensor) -> Tensor:
    """A tensor of one element without dimensions."""
    return folded(lambda x: x.reshape([]), part)


def _columns(part: Tensor, x: Tensor) -> Tensor:
    """One number per column, or one for all."""
    return single(part) if part.numel() == 1 else part


def _linear_conv(
    call: Call,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    scale: Tensor,
    zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    rank = weight.dim()
    values = values_of(x, single(x_scale), single(x_zero))
    rows = along(w_scale, rank, 0)
    kernel = values_of(weight, rows if rows is not None else w_scale, along(w_zero, rank, 0))
    shift = None
    if bias is not None:
        step = folded(lambda x, w: (x.reshape([]) * w).reshape([-1]), x_scale, w_scale)
        shift = values_of(bias, step, None)
        shift = shift.expand([bias.shape[0]])
    result = convolve(call, values, kernel, shift)
    element = element_of(BY_DTYPE[zero.dtype])
    assert element is not None
    return integer_codes(result, single(scale), single(zero), element)


def _matmul_integer(
    call: Call, x: Tensor, y: Tensor, x_zero: Tensor | None = None, y_zero: Tensor | None = None
) -> Tensor:
    weight = _integer_weight(y, y_zero)
    is_one = x_zero is None or x_zero.numel() == 1
    if weight is not None and is_one and x.dim() > 1 and x.dtype in (torch.uint8, torch.int8):
        zero = None if x_zero is None else folded(_integers, single(x_zero))
        return torch.ops.effc.linear_integer(x, weight, zero)
    left, right = x.to(torch.int32), y.to(torch.int32)
    if x_zero is not None:
        left = left - _rows(x_zero.to(torch.int32), x)
    if y_zero is not None:
        right = right - _columns(y_zero.to(torch.int32), y)
    return torch.matmul(left, right)


def _integer_weight(y: Tensor, zero: Tensor | None) -> Tensor | None:
    """A matrix known in advance as int8 codes `[out, in]` around 0; None where it is none."""
    if y.dim() != 2 or not is_known(y) or not is_known(zero):
        return None
    with outside_tracing():
        shifted = y.to(torch.int32)
        shifted = shifted if zero is None else shifted - _columns(zero.to(torch.int32), y)
        codes = shifted.to(torch.int8)
        return codes.t().contiguous() if torch.equal(codes.to(torch.int32), shifted) else None


def _conv_integer(
    call: Call,
    x: Tensor,
    weight: Tensor,
    x_zero: Tensor | None = None,
    w_zero: Tensor | None = None,
) -> Tensor:
    """Exact in float32 where no sum of products can pass 2^24, else in float64."""
    rank = weight.dim() - 2
    taps = weight[0].numel()
    dtype = torch.float32 if taps * 255 * 255 < 1 << 24 else torch.float64
    values, kernel = x.to(dtype), weight.to(dtype)
    if x_zero is not None:
        values = values - x_zero.to(dtype).reshape([])
    if w_zero is not None:
        part = along(w_zero, weight.dim(), 0)
        kernel = kernel - (part if part is not None else w_zero).to(dtype)
    strides, dilations = call.get("strides", [1] * rank), call.get("dilations", [1] * rank)
    pads = window_pads(call, list(x.shape[2:]), list(weight.shape[2:]), strides, dilations)
    plain = Call(call.op, "", call.version, call.name, {**call.attributes}, call.outputs)
    plain.attributes.update(pads=[0] * 2 * rank, auto_pad="NOTSET")
    return convolve(plain, padded(values, pads), kernel).to(torch.int32)


TABLE: dict[str, Any] = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": Operator(_dequantize, is_folded=False),
    "DynamicQuantizeLinear": _dynamic,
    "QLinearMatMul": _linear_matmul,
    "QLinearConv": _linear_conv,
    "MatMulInteger": _matmul_integer,
    "ConvInteger": _conv_integer,
}
