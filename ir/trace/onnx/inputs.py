"""The inputs of a model as effc describes them: names, dtypes, sizes and symbols."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from effc.ir.errors import ModelError, Unsupported, UnsupportedError, UsageError
from effc.ir.program import TensorSpec, dtype_name
from effc.ir.symbols import Size, Symbol, named
from effc.ir.trace.inputs import LARGEST, WantedInputs
from effc.ir.trace.onnx.call import IMPORT
from effc.ir.trace.onnx.elements import element_of
from effc.ir.trace.onnx.reading import Model


def inputs_of(
    model: Model, asked: WantedInputs, values: Mapping[str, torch.Tensor]
) -> WantedInputs:
    """The inputs without a default.

    Args:
        model: A checked model.
        asked: What the user says of them; goes before what the model says.
        values: Inputs that are given; they are left out.

    Raises:
        UsageError: If the user names an input there is not, or gives another dtype or rank.
        UnsupportedError: If an input is not a tensor of numbers.
        ModelError: If the model gives an input no shape and the user neither.
    """
    graph = model.graph
    free = [v for v in graph.inputs if v.name not in graph.initializers and v.name not in values]
    known = {spec.name: spec for spec in asked.specs}
    names = {value.name for value in free}
    if unknown := sorted(known.keys() - names):
        raise UsageError(f"--input names {', '.join(unknown)}; the model takes {', '.join(names)}")
    symbols: dict[str, Symbol] = dict(asked.symbols)
    specs = tuple(_spec(value, known.get(value.name), symbols) for value in free)
    used = {str(size) for spec in specs for size in spec.shape if not isinstance(size, int)}
    return WantedInputs(specs, {name: s for name, s in symbols.items() if name in used})


def _spec(value: Any, asked: TensorSpec | None, symbols: dict[str, Symbol]) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        reason = f"it is a {str(kind).removesuffix('_type')}, not a tensor"
        raise UnsupportedError(IMPORT, [Unsupported(f"input {value.name}", "", reason)])
    tensor = value.type.tensor_type
    element = element_of(tensor.elem_type)
    if element is None:
        reason = f"its elements of type {tensor.elem_type} are not numbers"
        raise UnsupportedError(IMPORT, [Unsupported(f"input {value.name}", "", reason)])
    if asked is not None:
        if asked.dtype != element.dtype:
            wrong, right = dtype_name(asked.dtype), dtype_name(element.dtype)
            raise UsageError(f"--input gives {asked.name} the dtype {wrong}; it takes {right}")
        if tensor.HasField("shape") and len(tensor.shape.dim) != len(asked.shape):
            rank = len(tensor.shape.dim)
            raise UsageError(f"--input gives {asked}; it has {rank} dimensions")
        return asked
    if not tensor.HasField("shape"):
        raise ModelError(
            f"the model gives its input {value.name} no shape; give it with "
            f'--input "{value.name}:{dtype_name(element.dtype)}[dims]"'
        )
    shape = tuple(
        _size(dim, f"{value.name}_{place}", symbols) for place, dim in enumerate(tensor.shape.dim)
    )
    return TensorSpec(value.name, element.dtype, shape)


def _size(dim: Any, fallback: str, symbols: dict[str, Symbol]) -> Size:
    """A number, or a symbol of the model's name for the dimension."""
    if dim.HasField("dim_value"):
        if not 0 <= dim.dim_value <= LARGEST:
            raise ModelError(f"the model has an input of size {dim.dim_value}")
        return int(dim.dim_value)
    given = dim.dim_param if isinstance(dim.dim_param, str) else ""
    name = re.sub(r"\W+", "_", given or fallback).strip("_") or "size"
    if not name.isidentifier():
        name = f"size_{name}"
    symbols.setdefault(name, Symbol(name, 1, LARGEST))
    return named(name)
