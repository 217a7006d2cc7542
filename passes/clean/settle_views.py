"""Chooses `view` or `reshape` for every change of shape, by the strides its input really has.

`view` says that no element moves. Whether that holds depends on strides, and strides change when a
copy or a permutation before it goes away. Rules therefore write `reshape`, which always runs, and
passes that change strides call `settle_views` at their end.
"""

from typing import Any

import sympy
import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.program import Program
from effc.passes.clean.matching import aten, is_call

VIEW = aten.view.default
RESHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
Layouts = dict[fx.Node, tuple[Any, ...]]


def layouts(program: Program) -> Layouts:
    """The strides every node's inputs have before a pass."""
    return {
        node: _input_layouts(node)
        for module in program.methods.values()
        for node in module.graph.nodes
    }


def settle_views(program: Program, before: Layouts, name: str) -> bool:
    """Bring strides up to date after a pass, and choose between `view` and `reshape`.

    Args:
        program: Edited in place.
        before: What `layouts` gave before the pass.
        name: The pass, for the provenance of what is replaced.

    Returns:
        Whether an operator was exchanged.
    """
    exchanged = 0
    for method, module in program.methods.items():
        editor = Editor(program, method, name)
        for node in list(module.graph.nodes):
            is_settled = before.get(node) == _input_layouts(node)
            if is_call(node, *RESHAPES):
                exchanged += not (is_settled and is_call(node, VIEW)) and _settle(node, editor)
            elif node.op == "call_function" and not is_settled:
                editor.refresh(node)
        editor.finish()
    return exchanged > 0


def _settle(node: fx.Node, editor: Editor) -> bool:
    """Put the best operator in place of a change of shape; return whether it is another one."""
    x, shape = node.args[:2]
    try:
        new = editor.call(node, VIEW, x, shape, before=node)
    except (RuntimeError, ValueError):  # the elements would have to move
        new = editor.call(node, aten.reshape.default, x, shape, before=node)
    is_exchange = new.target is not node.target
    editor.replace(node, new)
    return is_exchange


def _input_layouts(node: fx.Node) -> tuple[Any, ...]:
    return tuple(_layout(source.meta.get("val")) for source in node.all_input_nodes)


def _layout(value: Any) -> tuple[Any, ...]:
    if isinstance(value, torch.Tensor):
        return tuple(_plain(stride) for stride in value.stride())
    if isinstance(value, tuple | list):
        return tuple(_layout(item) for item in value)
    return ()


def _plain(stride: int | torch.SymInt) -> int | sympy.Expr:
    return stride if isinstance(stride, int) else stride.node.expr
