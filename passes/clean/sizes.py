"""Arguments that stand for sizes: an int, or a node that computes the size."""

import operator
from collections.abc import Sequence
from typing import Any

import sympy
import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.symbols import Size
from effc.passes.clean.matching import aten, is_tensor, size, sizes

OPERATORS = {sympy.Add: operator.add, sympy.Mul: operator.mul}


def are_expressible(wanted: Sequence[Size], node: fx.Node) -> bool:
    """Whether `size_arguments` can write down these sizes before a node."""
    return all(_is_expressible(entry, node) for entry in wanted)


def size_arguments(editor: Editor, node: fx.Node, wanted: Sequence[Size]) -> list[Any]:
    """Arguments for a call before `node` that stand for these sizes.

    Args:
        editor: Inserts what must be computed.
        node: The call that is being replaced.
        wanted: Sizes over torch's own symbols, all of them expressible.
    """
    return [_argument(editor, node, entry) for entry in wanted]


def _is_expressible(wanted: Size, node: fx.Node) -> bool:
    if isinstance(wanted, int) or wanted.is_Integer or _source(wanted, node) is not None:
        return True
    return wanted.func in OPERATORS and all(_is_expressible(part, node) for part in wanted.args)


def _argument(editor: Editor, node: fx.Node, wanted: Size) -> Any:
    if isinstance(wanted, int) or wanted.is_Integer:
        return int(wanted)
    found = _source(wanted, node)
    if isinstance(found, fx.Node):
        return found
    if found is not None:
        return editor.call(node, aten.sym_size.int, *found, before=node)
    first, *others = [_argument(editor, node, part) for part in wanted.args]
    for other in others:
        first = editor.call(node, OPERATORS[wanted.func], first, other, before=node)
    return first


def _source(wanted: sympy.Expr, node: fx.Node) -> fx.Node | tuple[fx.Node, int] | None:
    """What computes a size before a node: a node, or a tensor and its dimension."""
    dimension: tuple[fx.Node, int] | None = None
    earlier: fx.Node
    for earlier in node.graph.nodes:
        if earlier is node:
            break
        value = earlier.meta.get("val")
        if isinstance(value, torch.SymInt) and size(value) == wanted:
            return earlier
        if dimension is None and earlier.op == "placeholder" and is_tensor(earlier):
            shape = sizes(earlier)
            dimension = (earlier, shape.index(wanted)) if wanted in shape else None
    return dimension
