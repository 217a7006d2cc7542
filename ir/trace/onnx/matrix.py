"""Matrix products."""

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  (torch's own spelling)

from effc.ir.trace.onnx.call import Call, Tensor, is_known, listed
from effc.ir.trace.onnx.einsum import Terms
from effc.ir.trace.onnx.elementwise import aligned, widened

LARGEST_MINOR = 4


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
    terms = Terms.parse(call, call.get("equation", ""), values)
    parts = [terms.aligned(*pair) for pair in zip(terms.inputs, values, strict=True)]
    result = terms.contracted(parts)
    return result.permute(terms.order) if terms.order != sorted(terms.order) else result


def _determinant(call: Call, x: Tensor) -> Tensor:
    """By minors where the matrix is small, so that it compiles."""
    return _by_minors(x) if x.shape[-1] <= LARGEST_MINOR else torch.linalg.det(x)


def _by_minors(x: Tensor) -> Tensor:
    """The determinant of [..., size, size], along the first row."""
    size = x.shape[-1]
    if size == 1:
        return x[..., 0, 0]
    total: Any = None
    for place in range(size):
        rest = [column for column in range(size) if column != place]
        columns = [x[..., 1:, column] for column in rest]
        term = x[..., 0, place] * _by_minors(torch.stack(columns, -1))
        total = term if total is None else (total - term if place % 2 else total + term)
    return total


def is_zero(value: Any) -> bool:
    """Whether a value is known to be all zeros, or missing."""
    return value is None or (is_known(value) and not any(listed(value)))


TABLE: dict[str, Any] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Det": _determinant,
}
