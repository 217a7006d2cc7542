"""Rules that turn matrix products with weights into `linear`."""

from typing import Any

from torch import fx

from effc.ir.edit import Editor
from effc.ir.program import Program
from effc.passes.clean.matching import (
    NodeRule,
    aten,
    has_one_user,
    is_call,
    is_constant,
    rank,
    sizes,
)

RESHAPES = (aten.view.default, aten.reshape.default)


def _factors(node: fx.Node) -> tuple[Any, Any, Any]:
    """Input, matrix and bias of a product."""
    if is_call(node, aten.addmm.default):
        return node.args[1], node.args[2], node.args[0]
    return node.args[0], node.args[1], None


def _is_product(node: fx.Node) -> bool:
    if not is_call(node, aten.addmm.default, aten.mm.default, aten.matmul.default):
        return False
    x, matrix, _ = _factors(node)
    return is_constant(matrix) and rank(matrix) == 2 and not is_constant(x)


def _is_not_linear(node: fx.Node, program: Program) -> str | None:
    _, matrix, bias = _factors(node)
    if any(node.kwargs.get(name, 1) != 1 for name in ("alpha", "beta")):
        return "alpha or beta is not 1"
    if bias is not None and sizes(bias) != sizes(matrix)[1:]:
        return "the bias is not one number per output"
    return None


def _to_linear(node: fx.Node, editor: Editor) -> None:
    x, matrix, bias = _factors(node)
    weight = editor.call(node, aten.permute.default, matrix, [1, 0], before=node)
    new = editor.call(node, aten.linear.default, x, weight, bias, before=node)
    editor.replace(node, new)


def _is_flattened_linear(node: fx.Node) -> bool:
    """A view to rows, a linear, and a view back to the same leading dimensions."""
    if not is_call(node, *RESHAPES):
        return False
    linear: Any = node.args[0]
    if not is_call(linear, aten.linear.default) or not has_one_user(linear):
        return False
    rows = linear.args[0]
    if not is_call(rows, *RESHAPES):
        return False
    before, after = sizes(rows.args[0]), sizes(node)
    is_row_view = before[-1:] == sizes(rows)[-1:] and after[-1:] == sizes(linear)[-1:]
    return is_row_view and before[:-1] == after[:-1]


def _unflatten(node: fx.Node, editor: Editor) -> None:
    linear: Any = node.args[0]
    x = linear.args[0].args[0]
    new = editor.call(linear, aten.linear.default, x, *linear.args[1:], before=node)
    editor.replace(node, new)


RULES = (
    NodeRule("product-to-linear", _is_product, _to_linear, _is_not_linear),
    NodeRule("unflatten-linear", _is_flattened_linear, _unflatten),
)
