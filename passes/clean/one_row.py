"""One-dimensional convolutions as convolutions of images with one row.

Quantization, bfloat16 and the kernels then know one kind of convolution. Passes that need the form
apply `ONE_ROW`; the clean pipeline leaves the model's own form to those that do not.
"""

from typing import Any

from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import Kind, kind_of
from effc.ir.program import Program, attribute
from effc.passes.clean.matching import NodeRule, aten, has_one_user, is_call, rank

ROW = 2


def _is_convolution(node: fx.Node) -> bool:
    return is_call(node, aten.conv1d.default)


def _reason(node: fx.Node, program: Program) -> str | None:
    if len(node.args) != 7:
        return "the convolution is not in canonical form"
    return None if rank(node.args[0]) == 3 else "its input has no batch dimension"


def _raise_convolution(node: fx.Node, editor: Editor) -> None:
    x, weight, bias, *settings = node.args
    stride, padding, dilation, groups = settings
    image = _raised(node, x, editor)
    kernel = _raised(node, weight, editor)
    wide: list[Any] = [[1, *stride], [0, *padding], [1, *dilation], groups]
    new = editor.call(node, aten.conv2d.default, image, kernel, bias, *wide, before=node)
    editor.replace(node, editor.call(node, aten.squeeze.dim, new, ROW, before=node))


def _raised(node: fx.Node, tensor: Any, editor: Editor) -> fx.Node:
    """A tensor with a row; a weight is stored that way."""
    if tensor.op != "get_attr":
        return editor.call(node, aten.unsqueeze.default, tensor, ROW, before=node)
    value = attribute(editor.module, str(tensor.target)).unsqueeze(ROW)
    return editor.weight(f"{tensor.target}_of_one_row", value, like=tensor)


def _is_row_of_elements(node: fx.Node) -> bool:
    """unsqueeze(f(g(squeeze(x)))) of elementwise functions of one tensor, or of none."""
    return is_call(node, aten.unsqueeze.default) and node.args[1] == ROW and bool(_chain(node))


def _chain(node: fx.Node) -> list[fx.Node]:
    """The nodes from an unsqueeze up to the squeeze it undoes; none if there is no such."""
    found: list[fx.Node] = []
    inner: Any = node.args[0]
    while inner.op == "call_function" and rank(inner) == 3:
        found.append(inner)
        if is_call(inner, aten.squeeze.dim):
            return found if inner.args[1] == ROW else []
        sources = inner.all_input_nodes
        if kind_of(inner) != Kind.ELEMENTWISE or len(sources) != 1 or not has_one_user(inner):
            return []
        (inner,) = sources
    return []


def _raise_elements(node: fx.Node, editor: Editor) -> None:
    *elements, squeeze = _chain(node)
    value: Any = squeeze.args[0]
    for one in reversed(elements):
        (before,) = one.all_input_nodes
        args = [value if arg is before else arg for arg in one.args]
        value = editor.call(one, one.target, *args, before=node, **one.kwargs)
    editor.replace(node, value)


ONE_ROW = (
    NodeRule("convolution-1d", _is_convolution, _raise_convolution, _reason),
    NodeRule("elements-of-one-row", _is_row_of_elements, _raise_elements),
)
