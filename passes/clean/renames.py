"""Rules that give one meaning one operator."""

import operator
from typing import Any

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.passes.clean.matching import (
    NodeRule,
    aten,
    dtype,
    has_one_user,
    is_call,
    is_number,
    rank,
    sizes,
)
from effc.passes.clean.sizes import are_expressible, size_arguments

SAME_ARGUMENTS: dict[Any, Any] = {
    aten._unsafe_view.default: aten.reshape.default,
    aten.__and__.Tensor: aten.bitwise_and.Tensor,
    aten.__or__.Tensor: aten.bitwise_or.Tensor,
    aten.__and__.Scalar: aten.bitwise_and.Scalar,
    aten.__or__.Scalar: aten.bitwise_or.Scalar,
    aten.__xor__.Scalar: aten.bitwise_xor.Scalar,
    aten._adaptive_avg_pool2d.default: aten.adaptive_avg_pool2d.default,
    aten.true_divide.Tensor: aten.div.Tensor,
    aten._unsafe_index.Tensor: aten.index.Tensor,
}
SOFTMAXES: dict[Any, Any] = {
    aten._softmax.default: aten.softmax.int,
    aten._log_softmax.default: aten.log_softmax.int,
}
FIRST_OF_SEVERAL: dict[Any, Any] = {
    aten.max_pool2d_with_indices.default: (aten.max_pool2d.default, (0, 1, 2, 3, 4, 5)),
    aten.native_layer_norm.default: (aten.layer_norm.default, (0, 1, 2, 3, 4)),
    aten.native_group_norm.default: (aten.group_norm.default, (0, 6, 1, 2, 7)),
    aten._fused_rms_norm.default: (aten.rms_norm.default, (0, 1, 2, 3)),
}
FILLS: dict[Any, Any] = {
    aten.ones.default: 1,
    aten.ones_like.default: 1,
    aten.new_ones.default: 1,
    aten.zeros.default: 0,
    aten.zeros_like.default: 0,
    aten.new_zeros.default: 0,
    aten.full_like.default: lambda node: node.args[1],
    aten.new_full.default: lambda node: node.args[2],
    aten.scalar_tensor.default: lambda node: node.args[0],
}


def _rename(node: fx.Node, editor: Editor) -> None:
    target = SAME_ARGUMENTS[node.target]
    editor.replace(node, editor.call(node, target, *node.args, before=node, **node.kwargs))


def _transpose(node: fx.Node, editor: Editor) -> None:
    order = list(range(rank(node)))
    source, *dims = node.args
    first, second = map(int, dims or (0, 1))
    if order:
        order[first], order[second] = order[second], order[first]
    editor.replace(node, editor.call(node, aten.permute.default, source, order, before=node))


def _subtract(node: fx.Node, editor: Editor) -> None:
    new = editor.call(node, aten.sub.Tensor, node.args[1], node.args[0], before=node, **node.kwargs)
    editor.replace(node, new)


def _clamps_both_ways(node: fx.Node) -> bool:
    if is_call(node, aten.relu6.default):
        return True
    if not is_call(node, aten.clamp.default, aten.hardtanh.default) or len(node.args) != 3:
        return False
    x, *limits = node.args
    if not all(map(is_number, limits)) or not dtype(node).is_floating_point:
        return False
    has_floats = all(isinstance(limit, float) for limit in limits)
    is_done = is_call(node, aten.hardtanh.default) and has_floats
    return not is_done and isinstance(x, fx.Node) and dtype(x) == dtype(node)


def _clamp(node: fx.Node, editor: Editor) -> None:
    x, *limits = node.args
    numbers = map(float, limits or (0, 6))
    editor.replace(node, editor.call(node, aten.hardtanh.default, x, *numbers, before=node))


def _is_softmax(node: fx.Node) -> bool:
    return is_call(node, *SOFTMAXES) and not node.args[2]


def _softmax(node: fx.Node, editor: Editor) -> None:
    new = editor.call(node, SOFTMAXES[node.target], *node.args[:2], None, before=node)
    editor.replace(node, new)


def _is_only_result(node: fx.Node) -> bool:
    if not is_call(node, operator.getitem) or node.args[1] != 0:
        return False
    source: Any = node.args[0]
    return is_call(source, *FIRST_OF_SEVERAL) and has_one_user(source)


def _keep_first(node: fx.Node, editor: Editor) -> None:
    source: Any = node.args[0]
    target, order = FIRST_OF_SEVERAL[source.target]
    args = [source.args[position] for position in order if position < len(source.args)]
    editor.replace(node, editor.call(source, target, *args, before=node))


def _is_fill(node: fx.Node) -> bool:
    return is_call(node, *FILLS) and are_expressible(sizes(node), node)


def _fill(node: fx.Node, editor: Editor) -> None:
    value = FILLS[node.target]
    value = value(node) if callable(value) else value
    kind = dtype(node)
    if kind == torch.bool or kind.is_floating_point:
        value = bool(value) if kind == torch.bool else float(value)
    shape = size_arguments(editor, node, sizes(node))
    editor.replace(
        node, editor.call(node, aten.full.default, shape, value, before=node, dtype=kind)
    )


RULES = (
    NodeRule("rename", lambda node: is_call(node, *SAME_ARGUMENTS), _rename),
    NodeRule(
        "transpose-to-permute",
        lambda node: is_call(node, aten.t.default, aten.transpose.int),
        _transpose,
    ),
    NodeRule("rsub-to-sub", lambda node: is_call(node, aten.rsub.Tensor), _subtract),
    NodeRule("clamp-to-hardtanh", _clamps_both_ways, _clamp),
    NodeRule("softmax", _is_softmax, _softmax),
    NodeRule("keep-first-result", _is_only_result, _keep_first),
    NodeRule("create-by-full", _is_fill, _fill),
)
