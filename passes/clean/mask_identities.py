"""Rules for the masks that exported attention models build at run time.

Hugging Face models index a padding mask by counting tensors, `mask[arange(b)[:, None, None, None],
arange(s)[None, None, None, :]]`, which is a change of shape, and pass masks that hide nothing.
"""

from typing import Any

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.program import Program
from effc.ir.symbols import Size
from effc.passes.clean.bounds import shared_value
from effc.passes.clean.index_values import iota_dimension
from effc.passes.clean.matching import NodeRule, aten, dtype, is_call, is_tensor, rank, sizes
from effc.passes.clean.sizes import are_expressible, size_arguments

ATTENTION = (aten.scaled_dot_product_attention.default,)
MASK = 3


def _counted_dimensions(node: fx.Node) -> list[tuple[int, Size]] | None:
    """Per dimension of an indexed tensor, the dimension of the result that counts through it."""
    if not is_call(node, aten.index.Tensor) or not is_tensor(node.args[0]):
        return None
    source: Any = node.args[0]
    indices: Any = node.args[1]
    if len(indices) != rank(source) or not all(map(is_tensor, indices)):
        return None
    found = []
    for index, size in zip(indices, sizes(source), strict=True):
        if size == 1 and shared_value(index) == 0:
            continue
        position = iota_dimension(index)
        if position is None or sizes(index)[position] != size:
            return None
        found.append((rank(node) - rank(index) + position, size))
    return found


def _is_counting_index(node: fx.Node) -> bool:
    return _counted_dimensions(node) is not None and are_expressible(sizes(node), node)


def _is_not_a_view(node: fx.Node, program: Program) -> str | None:
    counted = _counted_dimensions(node) or []
    order = [position for position, _ in counted]
    if order != sorted(set(order)):
        return "the index reorders or repeats dimensions"
    if [dict(counted).get(position, 1) for position in range(rank(node))] != list(sizes(node)):
        return "the index repeats elements"
    return None


def _to_reshape(node: fx.Node, editor: Editor) -> None:
    shape = size_arguments(editor, node, sizes(node))
    new = editor.call(node, aten.reshape.default, node.args[0], shape, before=node)
    editor.replace(node, new)


def _hides_nothing(node: fx.Node) -> bool:
    if not is_call(node, *ATTENTION) or len(node.args) <= MASK or node.args[MASK] is None:
        return False
    mask: Any = node.args[MASK]
    return shared_value(mask) == (1 if dtype(mask) == torch.bool else 0)


def _drop_mask(node: fx.Node, editor: Editor) -> None:
    args = (*node.args[:MASK], None, *node.args[MASK + 1 :])
    new = editor.call(node, ATTENTION[0], *args, before=node, **node.kwargs)
    editor.replace(node, new)


RULES = (
    NodeRule("index-to-view", _is_counting_index, _to_reshape, _is_not_a_view),
    NodeRule("drop-mask", _hides_nothing, _drop_mask),
)
