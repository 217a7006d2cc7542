"""How the arguments of a call change when positions of its operands go."""

import operator
from typing import Any

import torch

from effc.ir.coupling.call import Call
from effc.ir.coupling.kept import Kept, Rows
from effc.ir.coupling.movement import slice_range
from effc.ir.edit import Editor

Changes = dict[str, Any]
SPLIT = torch.ops.aten.split_with_sizes.default


def sized(name: str) -> Any:
    """The rule of an operator with an argument that lists the sizes of its result."""

    def rule(call: Call, kept: Kept, editor: Editor) -> Changes:
        rows = kept.of(call.node)
        sizes = list(call[name])
        lead = call["dim"] % len(call.shape(call.first)) if name == "sizes" else 0
        for at, size in enumerate(sizes):
            sizes[at] = _scaled(call, size, rows[lead + at], editor)
        return {name: sizes}

    return rule


def _scaled(call: Call, size: Any, rows: Rows | None, editor: Editor) -> Any:
    if rows is None or (isinstance(size, int) and size < 0):
        return size
    left = int(rows.sum())
    if isinstance(size, int):
        return left
    whole = editor.call(call.node, operator.mul, size, left, before=call.node)
    return editor.call(call.node, operator.floordiv, whole, len(rows), before=call.node)


def sliced(call: Call, kept: Kept, editor: Editor) -> Changes:
    """`slice`: the range that is left."""
    rows = kept.of(call.first)[call["dim"]]
    if rows is None:
        return {}
    start, end = slice_range(call, len(rows))
    if call["step"] != 1:
        return {"end": int(rows.sum())}
    return {"start": int(rows[:start].sum()), "end": int(rows[:end].sum())}


def divided(call: Call, kept: Kept, editor: Editor) -> Changes:
    """`split`, `chunk`: parts of the sizes that are left."""
    rows = kept.of(call.first)[call["dim"]]
    if rows is None:
        return {}
    sizes, start = [], 0
    for shape in call.outputs:
        end = start + shape[call["dim"]]
        sizes.append(int(rows[start:end].sum()))
        start = end
    call.node.target = SPLIT
    return {"self": call.first, "split_sizes": sizes, "dim": call["dim"]}


def padded(call: Call, kept: Kept, editor: Editor) -> Changes:
    """`constant_pad_nd`: the new positions that are left."""
    amounts = list(call["pad"])
    rows = kept.of(call.node)
    for number in range(len(amounts) // 2):
        stays = rows[len(rows) - 1 - number]
        if stays is not None:
            low, high = amounts[2 * number : 2 * number + 2]
            amounts[2 * number] = int(stays[:low].sum())
            amounts[2 * number + 1] = int(stays[len(stays) - high :].sum())
    return {"pad": amounts}


def normalized(call: Call, kept: Kept, editor: Editor) -> Changes:
    """Norms of the last dimensions: their sizes."""
    shape = list(call["normalized_shape"])
    rows = kept.of(call.first)[-len(shape) :]
    left = [
        size if stays is None else int(stays.sum()) for size, stays in zip(shape, rows, strict=True)
    ]
    return {"normalized_shape": left}


def grouped(name: str, operand: str) -> Any:
    """The rule of an operator with a number of groups of the channels of an operand."""

    def rule(call: Call, kept: Kept, editor: Editor) -> Changes:
        rows = kept.of(call[operand])[1]
        if rows is None or call[name] == 1:
            return {}
        return {name: int(rows.reshape(call[name], -1).any(1).sum())}

    return rule


def native_group_norm(call: Call, kept: Kept, editor: Editor) -> Changes:
    """The number of groups and of channels."""
    rows = kept.of(call["input"])[1]
    if rows is None:
        return {}
    groups = int(rows.reshape(call["group"], -1).any(1).sum())
    return {"C": int(rows.sum()), "group": groups}


def attention(call: Call, kept: Kept, editor: Editor) -> Changes:
    """Scores keep their scale when heads get narrower."""
    if kept.of(call["query"])[-1] is None or call["scale"] is not None:
        return {}
    return {"scale": float(call.shape(call["query"])[-1]) ** -0.5}
