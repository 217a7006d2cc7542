"""Control flow whose course is known in advance: branches are chosen, loops unrolled."""

from typing import Any

import torch

from effc.ir.trace.onnx.call import Call, Tensor, is_known, known, number, outside_tracing
from effc.ir.trace.onnx.registry import Operator

LONGEST = 1024


def _if(call: Call, condition: Tensor) -> Any:
    if is_known(condition):
        chosen = "then_branch" if number(condition) else "else_branch"
        return tuple(call.subgraph(chosen))
    return _either(call, condition)


def _either(call: Call, condition: Tensor) -> Any:
    """Both branches are computed, and one is chosen element by element."""
    pairs = list(zip(call.subgraph("then_branch"), call.subgraph("else_branch"), strict=True))
    for first, second in pairs:
        if not isinstance(first, Tensor) or not isinstance(second, Tensor):
            known(condition, "which branch it takes")
        if first.dtype != second.dtype or first.shape != second.shape:
            known(condition, "which branch it takes, since their results have different shapes")
    return tuple(torch.where(condition.reshape([]), a, b) for a, b in pairs)


def _loop(call: Call, limit: Any, condition: Any, *state: Any) -> Any:
    values: list[Any] = list(state)
    rows: list[list[Any]] | None = None
    count = LONGEST + 1 if limit is None else int(number(limit, "how often it runs"))
    is_live = True if condition is None else bool(number(condition, "whether it runs"))
    step = 0
    while is_live and step < count:
        if step >= LONGEST:
            raise call.refuse(f"it runs more than {LONGEST} times")
        with outside_tracing():
            inputs = [torch.tensor(step), torch.tensor(True)]
        keeps, *results = call.subgraph("body", [*inputs, *values])
        values, outputs = results[: len(state)], results[len(state) :]
        rows = rows or [[] for _ in outputs]
        for row, output in zip(rows, outputs, strict=True):
            row.append(output)
        is_live = bool(number(keeps, "whether it goes on"))
        step += 1
    wanted = len(call.outputs) - len(state)
    if rows is None and wanted:
        raise call.refuse("it never runs, so the shapes of its results are not known")
    return (*values, *[_stacked(row, 0, False) for row in (rows or [])])


def _stacked(rows: list[Tensor], axis: int, is_reverse: bool) -> Tensor:
    rows = rows[::-1] if is_reverse else rows
    if all(map(is_known, rows)):
        with outside_tracing():
            return torch.stack(rows, axis)
    return torch.stack(rows, axis)


def _scan(call: Call, *inputs: Any) -> Any:
    if call.version < 9:
        return _batched_scan(call, *inputs)
    return _scanned(call, list(inputs))


def _scanned(call: Call, inputs: list[Any]) -> Any:
    count = call.get("num_scan_inputs")
    states, sequences = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    axes = call.get("scan_input_axes", [0] * count)
    backwards = call.get("scan_input_directions", [0] * count)
    length = sequences[0].shape[axes[0]]
    if not isinstance(length, int) or length > LONGEST:
        raise call.refuse("the number of its steps is not known in advance, or too large")
    rows: list[list[Tensor]] = []
    for step in range(length):
        places = [length - 1 - step if back else step for back in backwards]
        slices = [
            x.select(axis, place) for x, axis, place in zip(sequences, axes, places, strict=True)
        ]
        results = call.subgraph("body", [*states, *slices])
        states, outputs = results[: len(states)], results[len(states) :]
        rows = rows or [[] for _ in outputs]
        for row, output in zip(rows, outputs, strict=True):
            row.append(output)
    out_axes = call.get("scan_output_axes", [0] * len(rows))
    directions = call.get("scan_output_directions", [0] * len(rows))
    stacked = [
        _stacked(row, axis, bool(back))
        for row, axis, back in zip(rows, out_axes, directions, strict=True)
    ]
    return (*states, *stacked)


def _batched_scan(call: Call, lengths: Any, *inputs: Any) -> Any:
    """Version 8: every input has a batch in front, and each sample may be shorter."""
    if lengths is not None:
        raise call.refuse("sequences of different lengths are not supported")
    if any(call.get("directions", [])):
        raise call.refuse("backward sequences of version 8 are not supported")
    batch = inputs[0].shape[0]
    samples = [_scanned(call, [x.select(0, sample) for x in inputs]) for sample in range(batch)]
    return tuple(_stacked(list(parts), 0, False) for parts in zip(*samples, strict=True))


TABLE: dict[str, Any] = {
    "If": _if,
    "Loop": Operator(_loop, (0,)),
    "Scan": _scan,
}
