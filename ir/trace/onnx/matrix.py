"""Matrix products."""

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor, is_known, listed
from effc.ir.trace.onnx.elementwise import aligned, widened


def _matmul(call: Call, x: Tensor, y: Tensor) -> Tensor:
    return widened(torch.matmul)(call, x, y)


def _gemm(call: Call, x: Tensor, y: Tensor, bias: Tensor | None = None) -> Tensor:
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    if not x.dtype.is_floating_point:
        return _integer_gemm(call, x, y, bias)
    left = x.t() if call.get("transA", 0) else x
    right = y if call.get("transB", 0) else y.t()
    is_row = bias is not None and (bias.dim() == 1 and bias.shape[0] == right.shape[0])
    if alpha == 1 and (bias is None or (is_row and beta == 1)):
        return F.linear(left, right, bias)
    product = F.linear(left, right)
    product = product if alpha == 1 else product * alpha
    if bias is None:
        return product
    bias = aligned(call, product, bias)
    return product + (bias if beta == 1 else bias * beta)


def _integer_gemm(call: Call, x: Tensor, y: Tensor, bias: Tensor | None) -> Tensor:
    left = x.t() if call.get("transA", 0) else x
    right = y.t() if call.get("transB", 0) else y
    product = widened(torch.matmul)(call, left, right)
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    if alpha != 1 or beta != 1:
        raise call.refuse("products of integers with a factor are not supported")
    return product if bias is None else widened(torch.add)(call, product, bias)


def _einsum(call: Call, *values: Tensor) -> Tensor:
    return torch.einsum(call.get("equation", "").replace(" ", ""), *values)


def _determinant(call: Call, x: Tensor) -> Tensor:
    return torch.linalg.det(x)


def is_zero(value: Any) -> bool:
    """Whether a value is known to be all zeros, or missing."""
    return value is None or (is_known(value) and not any(listed(value)))


TABLE: dict[str, Any] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Det": _determinant,
}
