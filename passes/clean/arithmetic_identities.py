"""Rules for arithmetic that leaves its input as it is, or whose result is known."""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.passes.clean.bounds import FALSE, TRUE, bounds, shared_value
from effc.passes.clean.matching import NodeRule, aten, dtype, is_call, is_tensor, sizes
from effc.passes.clean.sizes import are_expressible, size_arguments

NEUTRAL_ON_EITHER_SIDE: dict[Any, float] = {
    aten.add.Tensor: 0,
    aten.mul.Tensor: 1,
    aten.bitwise_and.Tensor: 1,
    aten.bitwise_or.Tensor: 0,
    aten.logical_and.default: 1,
    aten.logical_or.default: 0,
}
NEUTRAL_ON_THE_RIGHT: dict[Any, float] = {
    aten.add.Scalar: 0,
    aten.sub.Tensor: 0,
    aten.sub.Scalar: 0,
    aten.mul.Scalar: 1,
    aten.div.Tensor: 1,
    aten.div.Scalar: 1,
    aten.pow.Tensor_Scalar: 1,
}
ON_TRUTH_VALUES = (
    aten.bitwise_and.Tensor,
    aten.bitwise_or.Tensor,
    aten.logical_and.default,
    aten.logical_or.default,
)
WHERE = (aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
FILL = (aten.masked_fill.Scalar,)
LOSSLESS = {
    torch.bool: (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float32),
    torch.float16: (torch.float32, torch.float64),
    torch.bfloat16: (torch.float32, torch.float64),
    torch.float32: (torch.float64,),
    torch.int8: (torch.int16, torch.int32, torch.int64, torch.float32, torch.float64),
    torch.uint8: (torch.int16, torch.int32, torch.int64, torch.float32, torch.float64),
    torch.int16: (torch.int32, torch.int64, torch.float32, torch.float64),
    torch.int32: (torch.int64, torch.float64),
}


def _kept(node: fx.Node) -> fx.Node | None:
    """The operand an operation with a neutral element gives back."""
    if node.op != "call_function" or not is_tensor(node):
        return None
    if node.target in ON_TRUTH_VALUES and dtype(node) != torch.bool:
        return None
    for x, other in _pairs(node):
        if is_tensor(x) and dtype(x) == dtype(node) and _is_neutral(node, other):
            return x if are_expressible(sizes(node), node) else None
    return None


def _pairs(node: fx.Node) -> list[tuple[Any, Any]]:
    """Each operand that could stay, with the one that must be neutral."""
    if node.target not in {*NEUTRAL_ON_EITHER_SIDE, *NEUTRAL_ON_THE_RIGHT}:
        return []
    first, second = node.args[:2]
    pairs = [(first, second)]
    if node.target in NEUTRAL_ON_EITHER_SIDE and node.kwargs.get("alpha", 1) == 1:
        pairs.append((second, first))
    return pairs


def _is_neutral(node: fx.Node, operand: Any) -> bool:
    wanted = (NEUTRAL_ON_EITHER_SIDE | NEUTRAL_ON_THE_RIGHT)[node.target]
    return shared_value(operand) == wanted


def _chosen(node: fx.Node) -> Any:
    """The operand a `where` or `masked_fill` always takes; None if that depends on data."""
    if is_call(node, *WHERE):
        condition, if_true, if_false = node.args
    elif is_call(node, *FILL):
        if_false, condition, if_true = node.args
    else:
        return None
    known = bounds(condition)
    chosen: Any = if_true if known == TRUE else if_false if known == FALSE else None
    is_usable = chosen is not None and are_expressible(sizes(node), node)
    is_usable = is_usable and (not is_tensor(chosen) or dtype(chosen) == dtype(node))
    return chosen if is_usable else None


def _replace_by(find: Callable[[fx.Node], Any]) -> Callable[[fx.Node, Editor], None]:
    def rewrite(node: fx.Node, editor: Editor) -> None:
        editor.replace(node, filled(editor, node, find(node)))

    return rewrite


def filled(editor: Editor, node: fx.Node, value: Any) -> fx.Node:
    """A tensor or number, brought to the shape and dtype of a node."""
    if is_tensor(value) and sizes(value) == sizes(node):
        same: fx.Node = value
        return same
    shape = size_arguments(editor, node, sizes(node))
    if is_tensor(value):
        return editor.call(node, aten.expand.default, value, shape, before=node)
    kind = dtype(node)
    number = bool(value) if kind == torch.bool else value
    number = float(number) if kind.is_floating_point else number
    return editor.call(node, aten.full.default, shape, number, before=node, dtype=kind)


def _decided(node: fx.Node) -> int | None:
    """The one value a computed integer tensor has."""
    if node.op != "call_function" or is_call(node, aten.full.default) or not is_tensor(node):
        return None
    low, high = bounds(node)
    return int(low) if low == high and are_expressible(sizes(node), node) else None


def _is_cast_and_back(node: fx.Node) -> bool:
    if not is_call(node, aten._to_copy.default) or not is_call(node.args[0], aten._to_copy.default):
        return False
    wide: Any = node.args[0]
    original = wide.args[0]
    is_back = dtype(original) == dtype(node)
    return is_back and dtype(wide) in LOSSLESS.get(dtype(node), ())


def _drop_casts(node: fx.Node, editor: Editor) -> None:
    wide: Any = node.args[0]
    editor.replace(node, wide.args[0])


RULES = (
    NodeRule("neutral-operand", lambda node: _kept(node) is not None, _replace_by(_kept)),
    NodeRule("known-condition", lambda node: _chosen(node) is not None, _replace_by(_chosen)),
    NodeRule("known-value", lambda node: _decided(node) is not None, _replace_by(_decided)),
    NodeRule("cast-and-back", _is_cast_and_back, _drop_casts),
)
