"""Rules that drop calls that only copy their input, and unify casts.

A program is functional, so a copy can never be told from its original.
"""

from typing import Any

from torch import fx

from effc.ir.edit import Editor
from effc.passes.clean.matching import NodeRule, aten, dtype, is_call, is_same_type, is_tensor

COPIES = (
    aten.clone.default,
    aten.alias.default,
    aten.detach.default,
    aten.detach_.default,
    aten.lift_fresh_copy.default,
    aten.contiguous.default,
)
DROPOUTS = (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default)
CASTS = (aten.to.dtype, aten.to.device, aten.type_as.default)


def _input(node: fx.Node) -> fx.Node:
    found = node.args[0]
    if not isinstance(found, fx.Node):
        raise TypeError(f"the first argument of {node.name} is not a node")
    return found


def _is_copy(node: fx.Node) -> bool:
    if is_call(node, *COPIES):
        return True
    if is_call(node, *DROPOUTS):
        return not node.args[2]
    is_cast = is_call(node, aten._to_copy.default, *CASTS)
    return is_cast and is_same_type(node, _input(node))


def _drop_copy(node: fx.Node, editor: Editor) -> None:
    editor.replace(node, _input(node))


def _is_cast(node: fx.Node) -> bool:
    return is_call(node, *CASTS) and not is_same_type(node, _input(node))


def _unify_cast(node: fx.Node, editor: Editor) -> None:
    options: dict[str, Any] = {"dtype": dtype(node)}
    editor.replace(
        node, editor.call(node, aten._to_copy.default, _input(node), before=node, **options)
    )


def _is_unread_dropout_mask(node: fx.Node) -> bool:
    """`native_dropout` in evaluation mode gives its input and a mask."""
    if not is_call(node, aten.native_dropout.default) or node.args[2]:
        return False
    return bool(node.users) and all(user.args[1] == 0 for user in node.users)


def _drop_native_dropout(node: fx.Node, editor: Editor) -> None:
    for user in list(node.users):
        editor.replace(user, _input(node))


RULES = (
    NodeRule("drop-copy", _is_copy, _drop_copy),
    NodeRule("drop-copy", _is_unread_dropout_mask, _drop_native_dropout),
    NodeRule("unify-cast", lambda node: _is_cast(node) and is_tensor(node), _unify_cast),
)
