"""Sequences and optionals, which exist only while a model is imported."""

from typing import Any

import torch

from effc.ir.trace.onnx.call import Call, Tensor, number, outside_tracing, sizes
from effc.ir.trace.onnx.registry import Operator


def _construct(call: Call, *values: Any) -> Any:
    return (list(values),)


def _empty(call: Call) -> Any:
    return ([],)


def _at(call: Call, values: list[Any], place: Any) -> Any:
    return values[int(number(place, "which element it takes"))]


def _insert(call: Call, values: list[Any], value: Any, place: Any = None) -> Any:
    position = len(values) if place is None else int(number(place, "where it inserts"))
    position += len(values) if position < 0 else 0
    return ([*values[:position], value, *values[position:]],)


def _erase(call: Call, values: list[Any], place: Any = None) -> Any:
    position = len(values) - 1 if place is None else int(number(place, "which element it drops"))
    position %= len(values)
    return ([*values[:position], *values[position + 1 :]],)


def _length(call: Call, values: list[Any]) -> Any:
    with outside_tracing():
        return torch.tensor(len(values), dtype=torch.int64)


def _concat(call: Call, values: list[Any]) -> Tensor:
    axis = call.get("axis", 0)
    return torch.stack(values, axis) if call.get("new_axis", 0) else torch.cat(values, axis)


def _split(call: Call, x: Tensor, lengths: Any = None) -> Any:
    axis = call.get("axis", 0)
    if lengths is None:
        parts = list(torch.split(x, 1, axis))
        if not call.get("keepdims", 1):
            parts = [part.squeeze(axis) for part in parts]
        return (parts,)
    wanted = sizes(lengths, "the lengths of its parts")
    is_number = lengths.dim() == 0 if isinstance(lengths, Tensor) else False
    return (list(torch.split(x, wanted[0] if is_number else wanted, axis)),)


def _map(call: Call, values: list[Any], *others: Any) -> Any:
    rows = []
    for place, value in enumerate(values):
        rest = [other[place] if isinstance(other, list) else other for other in others]
        rows.append(call.subgraph("body", [value, *rest]))
    count = len(call.outputs)
    return tuple([row[place] for row in rows] for place in range(count))


def _optional(call: Call, value: Any = None) -> Any:
    return (value,)


def _has_element(call: Call, value: Any = None) -> Any:
    with outside_tracing():
        return torch.tensor(value is not None)


def _get_element(call: Call, value: Any = None) -> Any:
    if value is None:
        raise ValueError("the optional is empty")
    return (value,)


TABLE: dict[str, Any] = {
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceAt": Operator(_at, (1,)),
    "SequenceInsert": Operator(_insert, (2,)),
    "SequenceErase": Operator(_erase, (1,)),
    "SequenceLength": _length,
    "ConcatFromSequence": _concat,
    "SplitToSequence": Operator(_split, (1,)),
    "SequenceMap": _map,
    "Optional": _optional,
    "OptionalHasElement": _has_element,
    "OptionalGetElement": _get_element,
}
