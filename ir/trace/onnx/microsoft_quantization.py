"""Quantized operators of ONNX Runtime's own domain."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor, is_known, outside_tracing
from effc.ir.trace.onnx.elements import BY_DTYPE, element_of
from effc.ir.trace.onnx.quantization import TABLE as STANDARD
from effc.ir.trace.onnx.quantization import integer_codes, single, values_of


def _number(part: Tensor) -> Tensor:
    """A scale or zero point as one number, or one per column."""
    return single(part) if part.numel() == 1 else part


def _values(codes: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    return values_of(codes, _number(scale), None if zero is None else _number(zero))


def _codes(x: Tensor, scale: Tensor, zero: Tensor | None, like: torch.dtype) -> Tensor:
    dtype = like if zero is None else zero.dtype
    element = element_of(BY_DTYPE[dtype])
    assert element is not None
    return integer_codes(x, _number(scale), None if zero is None else _number(zero), element)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def rule(
        call: Call,
        x: Tensor,
        x_scale: Tensor,
        x_zero: Tensor | None,
        y: Tensor,
        y_scale: Tensor,
        y_zero: Tensor | None,
        scale: Tensor,
        zero: Tensor | None = None,
    ) -> Tensor:
        result = function(_values(x, x_scale, x_zero), _values(y, y_scale, y_zero))
        return _codes(result, scale, zero, x.dtype)

    return rule


def _unary(function: Callable[[Call, Tensor], Tensor]) -> Callable[..., Tensor]:
    def rule(
        call: Call,
        x: Tensor,
        x_scale: Tensor,
        x_zero: Tensor | None,
        scale: Tensor,
        zero: Tensor | None = None,
    ) -> Tensor:
        return _codes(function(call, _values(x, x_scale, x_zero)), scale, zero, x.dtype)

    return rule


def _concat(call: Call, scale: Tensor, zero: Tensor, *parts: Tensor) -> Tensor:
    triples = [parts[i : i + 3] for i in range(0, len(parts), 3)]
    values = [_values(x, x_scale, x_zero) for x, x_scale, x_zero in triples]
    return _codes(torch.cat(values, call.get("axis", 0)), scale, zero, parts[0].dtype)


def _global_pool(call: Call, x: Tensor) -> Tensor:
    if call.get("channels_last", 0):
        raise call.refuse("channels that come last are not supported")
    return torch.mean(x, list(range(2, x.dim())), True)


def _gemm(
    call: Call,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    y: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
    scale: Tensor | None = None,
    zero: Tensor | None = None,
) -> Tensor:
    left, right = _values(x, x_scale, x_zero), y
    rows = right if call.get("transB", 0) else right.t()
    per_row = [part.reshape([-1, 1]) if part.numel() > 1 else part for part in (y_scale, y_zero)]
    weight = _values(rows, per_row[0], per_row[1])
    left = left.t() if call.get("transA", 0) else left
    alpha = call.get("alpha", 1.0)
    shift = None if bias is None else bias.to(torch.float32) * (x_scale * y_scale).reshape([-1])
    product = F.linear(left, weight)
    total = product if shift is None else product + shift
    total = total if alpha == 1 else total * alpha
    return total if scale is None else _codes(total, scale, zero, x.dtype)


def _matmul_to_float(
    call: Call,
    x: Tensor,
    y: Tensor,
    x_scale: Tensor,
    y_scale: Tensor,
    x_zero: Tensor | None = None,
    y_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    product = torch.matmul(_values(x, x_scale, x_zero), _values(y, y_scale, y_zero))
    return product if bias is None else product + bias


def _dynamic_matmul(
    call: Call,
    x: Tensor,
    y: Tensor,
    scale: Tensor,
    zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    dims = list(range(x.dim()))
    codes, step, shift = torch.ops.effc.quantize_dynamic(x, dims, 0, 255, torch.uint8)
    product = torch.matmul(values_of(codes, step, shift), _values(y, scale, zero))
    return product if bias is None else product + bias


def _blocked_matmul(
    call: Call,
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    groups: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """A linear layer with weights of 2, 4 or 8 bits and a scale for each block of inputs.

    Args:
        call: `N` outputs, `K` inputs, `bits`, `block_size`.
        x: [..., K].
        packed: [N, blocks, bytes], the first code in the lowest bits.
        scales: [N * blocks].
        zeros: Packed like the weights, or of the type of `x`; half of the range if missing.
        groups: Reordering of the inputs; not supported.
        bias: [N].
    """
    if groups is not None:
        raise call.refuse("reordered inputs are not supported")
    rows, columns = call.get("N"), call.get("K")
    bits, block = call.get("bits", 4), call.get("block_size")
    if bits not in (2, 4, 8):
        raise call.refuse(f"weights of {bits} bits are not supported")
    if not is_known(packed) or not is_known(zeros):
        raise call.refuse("weights that are computed when the model runs are not supported")
    blocks = -(-columns // block)
    with outside_tracing():
        codes = unpacked_codes(packed, bits).reshape([rows, blocks, block])
        if zeros is None:
            zero = torch.full([rows, blocks, 1], 1 << (bits - 1), dtype=torch.int32)
        elif zeros.dtype == torch.uint8:
            wide = unpacked_codes(zeros.reshape([rows, -1]), bits)
            zero = wide[:, :blocks].to(torch.int32).reshape([rows, blocks, 1]).contiguous()
        else:
            raise call.refuse("zero points that are not integers are not supported")
        step = scales.reshape([rows, blocks, 1]).to(torch.float32) if is_known(scales) else scales
    weight = values_of(codes, step.reshape([rows, blocks, 1]), zero)
    weight = weight.reshape([rows, blocks * block]).to(x.dtype)
    if blocks * block != columns:
        weight = torch.ops.aten.slice.Tensor(weight, 1, 0, columns)
    return F.linear(x, weight, bias)


def unpacked_codes(packed: Tensor, bits: int) -> Tensor:
    """uint8 codes [..., bytes * 8 / bits] out of bytes [..., bytes]."""
    if bits == 8:
        return packed
    shifts = torch.arange(0, 8, bits, dtype=torch.int32)
    wide = packed.to(torch.int32).unsqueeze(-1) >> shifts
    return (wide & ((1 << bits) - 1)).to(torch.uint8).reshape([*packed.shape[:-1], -1])


TABLE: dict[str, Any] = {
    "QuantizeLinear": STANDARD["QuantizeLinear"],
    "DequantizeLinear": STANDARD["DequantizeLinear"],
    "QLinearAdd": _binary(torch.add),
    "QLinearMul": _binary(torch.mul),
    "QLinearSigmoid": _unary(lambda call, x: torch.sigmoid(x)),
    "QLinearLeakyRelu": _unary(lambda call, x: F.leaky_relu(x, call.get("alpha", 0.01))),
    "QLinearSoftmax": _unary(lambda call, x: F.softmax(x, call.get("axis", -1))),
    "QLinearGlobalAveragePool": _unary(_global_pool),
    "QLinearConcat": _concat,
    "QGemm": _gemm,
    "MatMulIntegerToFloat": _matmul_to_float,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulNBits": _blocked_matmul,
}
