"""Sparse tensors of a model as dense ones."""

import math
from pathlib import Path
from typing import Any

import torch

from effc.ir.errors import ModelError
from effc.ir.trace.onnx.limits import check_fits
from effc.ir.trace.onnx.tensors import tensor_of


def dense(proto: Any, folder: Path | None) -> torch.Tensor:
    """The values of a SparseTensorProto.

    Raises:
        ModelError: If its indices do not fit its shape, or it does not fit in memory.
    """
    label = f"sparse tensor {proto.values.name or '(unnamed)'}"
    shape = [int(size) for size in proto.dims]
    values, indices = tensor_of(proto.values, folder), tensor_of(proto.indices, folder)
    check_fits(shape, values.element_size(), label)
    if any(size < 0 for size in shape) or indices.dtype != torch.int64:
        raise ModelError(f"{label} has the shape {shape} and {indices.dtype} indices")
    if indices.dim() == 2:
        strides = [math.prod(shape[place + 1 :]) for place in range(len(shape))]
        indices = (indices * torch.tensor(strides)).sum(1)
    count = math.prod(shape)
    if indices.shape != values.shape or (len(indices) and not 0 <= indices.min() <= indices.max()):
        raise ModelError(f"{label} has {len(values)} values and indices of shape {indices.shape}")
    if len(indices) and indices.max() >= count:
        raise ModelError(f"{label} has an index past its end")
    result = torch.zeros(count, dtype=values.dtype)
    result[indices] = values
    return result.reshape(shape)
