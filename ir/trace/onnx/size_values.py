"""Arithmetic on symbolic sizes, so that shapes a model computes stay shapes.

A result whose entries are all numbers becomes a constant; operators not listed here get the sizes
as a tensor of the graph.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from effc.ir.trace.onnx.call import Call, Sizes, is_known, listed, outside_tracing

INT32, INT64 = 6, 7
LONGEST = 64


def fold_sizes(call: Call, inputs: list[Any]) -> Any:
    """The result of an operator on sizes as `Sizes` or a constant; None where it is not one."""
    if call.domain:
        return None
    if call.op in ("Shape", "Size") and isinstance(inputs[0], torch.Tensor):
        return _settled(_measured(call, inputs[0]))
    if not any(isinstance(value, Sizes) for value in inputs):
        return None
    rule = RULES.get(call.op)
    if rule is None or not all(_is_small(value) for value in inputs):
        return None
    result = rule(call, *[None if value is None else _array(value) for value in inputs])
    if isinstance(result, tuple):
        return tuple(map(_settled, result))
    return None if result is None else _settled(result)


def _is_small(value: Any) -> bool:
    if isinstance(value, Sizes) or value is None:
        return True
    is_integer = is_known(value) and isinstance(value, torch.Tensor)
    return is_integer and not value.is_floating_point() and value.numel() <= LONGEST


def _array(value: Any) -> np.ndarray:
    if isinstance(value, Sizes):
        return value.values
    found = np.empty(value.numel(), object)
    found[:] = listed(value)
    return found.reshape(tuple(value.shape))


def _settled(values: np.ndarray) -> Any:
    """A constant if all entries are numbers."""
    if not any(isinstance(one, torch.SymInt) for one in values.reshape(-1)):
        with outside_tracing():
            return torch.tensor(values.tolist(), dtype=_dtype(values)).reshape(values.shape)
    return Sizes(values) if values.ndim <= 1 else None


def _dtype(values: np.ndarray) -> torch.dtype:
    is_logical = values.size > 0 and all(isinstance(one, bool) for one in values.reshape(-1))
    return torch.bool if is_logical else torch.int64


def _measured(call: Call, x: torch.Tensor) -> np.ndarray:
    if call.op == "Size":
        return _boxed(functools.reduce(operator.mul, x.shape, 1))
    return _boxed(list(x.shape)[call.get("start", 0) : call.get("end")])


def _boxed(value: Any) -> np.ndarray:
    """An object array of a number or of a list of numbers."""
    result: np.ndarray = np.empty(len(value) if isinstance(value, list) else (), object)
    result[...] = value
    return result


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., np.ndarray]:
    def rule(call: Call, *values: np.ndarray) -> np.ndarray:
        shape = np.broadcast_shapes(*[value.shape for value in values])
        columns = [np.broadcast_to(value, shape).reshape(-1) for value in values]
        flat = _boxed([functools.reduce(function, row) for row in zip(*columns, strict=True)])
        return flat.reshape(shape)

    return rule


def _quotient(x: Any, y: Any) -> Any:
    """Sizes are not negative, so rounding down is rounding towards zero."""
    return x // y


def _gather(call: Call, values: np.ndarray, indices: np.ndarray) -> np.ndarray | None:
    if values.ndim != 1 or call.get("axis", 0) not in (0, -1):
        return None
    if indices.ndim == 0:
        return _boxed(values[int(indices[()])])
    return _boxed([values[int(one)] for one in indices.reshape(-1)]).reshape(indices.shape)


def _slice(call: Call, values: np.ndarray, *limits: np.ndarray | None) -> np.ndarray | None:
    if values.ndim != 1:
        return None
    if not limits:
        return values[call.get("starts")[0] : call.get("ends")[0]]
    steps = limits[3] if len(limits) > 3 else None
    given = [limits[0], limits[1], steps]
    firsts: list[Any] = [None if part is None else part.reshape(-1)[0] for part in given]
    start, end, step = firsts
    if any(isinstance(one, torch.SymInt) for one in (start, end, step)):
        return None
    size, step = len(values), step or 1
    start = max(start, -size - 1) if start < 0 else min(start, size)
    end = None if step < 0 and end < -size else max(end, -size) if end < 0 else min(end, size)
    return values[start:end:step]


def _split(call: Call, values: np.ndarray, lengths: np.ndarray | None = None) -> Any:
    if values.ndim != 1:
        return None
    parts = call.get("split") or (None if lengths is None else [int(one) for one in lengths])
    if parts is None:
        length = -(-len(values) // len(call.outputs))
        return tuple(values[i : i + length] for i in range(0, len(values), length))
    ends = np.cumsum(parts)
    return tuple(values[end - part : end] for part, end in zip(parts, ends, strict=True))


def _concatenate(call: Call, *values: np.ndarray) -> np.ndarray | None:
    return None if any(value.ndim != 1 for value in values) else np.concatenate(values)


def _cast(call: Call, values: np.ndarray, *ignored: Any) -> np.ndarray | None:
    return values if call.get("to") in (INT32, INT64) else None


def _flatten(call: Call, values: np.ndarray, *shape: np.ndarray) -> np.ndarray | None:
    if call.op == "Reshape" and (not shape or len(shape[0]) > 1):
        return None
    if call.op == "Reshape" and len(shape[0]) == 1:
        return values.reshape(-1)
    return values.reshape(()) if values.size == 1 else None


def _unsqueeze(call: Call, values: np.ndarray, *axes: np.ndarray) -> np.ndarray | None:
    return values.reshape(1) if values.ndim == 0 else None


def _total(function: Callable[[Any, Any], Any]) -> Callable[..., np.ndarray]:
    def rule(call: Call, values: np.ndarray, *axes: np.ndarray) -> np.ndarray:
        total = functools.reduce(function, values.reshape(-1))
        return _boxed([total] if call.get("keepdims", 1) and values.ndim else total)

    return rule


def _select(call: Call, condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    shape = np.broadcast_shapes(condition.shape, x.shape, y.shape)
    columns = [np.broadcast_to(value, shape).reshape(-1) for value in (condition, x, y)]
    chosen = [a if bool(test) else b for test, a, b in zip(*columns, strict=True)]
    return _boxed(chosen).reshape(shape)


RULES: dict[str, Callable[..., Any]] = {
    "Add": _binary(operator.add),
    "Sub": _binary(operator.sub),
    "Mul": _binary(operator.mul),
    "Div": _binary(_quotient),
    "Mod": _binary(operator.mod),
    "Max": _binary(torch.sym_max),
    "Min": _binary(torch.sym_min),
    "Equal": _binary(lambda x, y: bool(x == y)),
    "Greater": _binary(lambda x, y: bool(x > y)),
    "Less": _binary(lambda x, y: bool(x < y)),
    "GreaterOrEqual": _binary(lambda x, y: bool(x >= y)),
    "LessOrEqual": _binary(lambda x, y: bool(x <= y)),
    "Where": _select,
    "Gather": _gather,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concatenate,
    "Cast": _cast,
    "Identity": lambda call, values: values,
    "Squeeze": _flatten,
    "Reshape": _flatten,
    "Unsqueeze": _unsqueeze,
    "ReduceProd": _total(operator.mul),
    "ReduceSum": _total(operator.add),
}
