"""Run-time and static quantization in front of a reshape that keeps rows, where a row kernel is."""

from typing import Any

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import op_name
from effc.ir.program import Program

aten = torch.ops.aten
DYNAMIC, STATIC = "effc.quantize_dynamic.default", "effc.quantize.default"
SYMMETRIC = "effc.quantize_symmetric.default"
RESHAPES = ("aten.view.default", "aten.reshape.default")


class QuantizeBeforeReshape:
    """quantize(reshape(x)) is reshape(quantize(x)): it then fuses with what computes x.

    Holds for one scale per row if the reshape keeps rows, and for one scale of all.
    """

    name = "quantize-before-reshape"

    def match(self, node: fx.Node) -> bool:
        """Whether a quantization reads a reshape."""
        if node.op != "call_function" or op_name(node) not in (DYNAMIC, SYMMETRIC, STATIC):
            return False
        view = node.args[0]
        return isinstance(view, fx.Node) and op_name(view) in RESHAPES and _is_computed(view)

    def check(self, node: fx.Node, program: Program) -> str | None:
        """The scale must mean the same before."""
        view: Any = node.args[0]
        if op_name(node) == STATIC:
            scales = [one for one in node.args[1:3] if isinstance(one, fx.Node)]
            has_many = any(scale.meta["val"].dim() for scale in scales)
            return "the scale is not per tensor" if has_many else None
        rank, last = view.meta["val"].dim(), view.args[0].meta["val"].shape[-1]
        is_row = [dim % rank for dim in node.args[1]] == [rank - 1]
        keeps = view.meta["val"].shape[-1] == last
        return None if is_row and keeps else "the scale is not per row, or rows are taken apart"

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """Quantize first; reshape the codes, and scales and zero points likewise."""
        view: Any = node.args[0]
        if op_name(node) == STATIC:
            codes = editor.call(node, node.target, view.args[0], *node.args[1:], before=node)
            editor.replace(node, editor.call(view, view.target, codes, view.args[1], before=node))
            return
        found = editor.call(node, node.target, view.args[0], [-1], *node.args[2:], before=node)
        for user in list(node.users):
            part = editor.call(user, user.target, found, user.args[1], before=node)
            sizes = [*view.args[1]] if user.args[1] == 0 else [*view.args[1][:-1], 1]
            editor.replace(user, editor.call(view, view.target, part, sizes, before=user))


def _is_computed(view: fx.Node) -> bool:
    """Whether an operator, not another view or an input, computes what is reshaped."""
    source = view.args[0]
    return isinstance(source, fx.Node) and source.op == "call_function"
