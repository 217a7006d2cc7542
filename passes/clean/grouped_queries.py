"""A rule for attention over keys and values that were repeated for groups of query heads.

Traced decoders write the repetition out (`expand` and `reshape`, or `repeat_interleave`), which
copies both; attention itself can let several query heads share a key head.
"""

from typing import Any

from torch import fx

from effc.ir.edit import Editor
from effc.ir.program import Program
from effc.ir.symbols import Size, simplify
from effc.passes.clean.matching import NodeRule, aten, is_call, is_tensor, rank, sizes

ATTENTION = aten.scaled_dot_product_attention.default
RESHAPES = (aten.view.default, aten.reshape.default)
HEADS = 1


def _repetition(node: Any) -> tuple[fx.Node, Size] | None:
    """What is repeated head by head, and how often."""
    if is_call(node, aten.repeat_interleave.self_int) and len(node.args) > 2:
        is_of_heads = rank(node) == 4 and node.args[2] == HEADS
        times = node.args[1]
        return (node.args[0], times) if is_of_heads and isinstance(times, int) else None
    if not is_call(node, *RESHAPES) or not is_call(node.args[0], aten.expand.default):
        return None
    wide: Any = node.args[0]
    single: Any = wide.args[0]
    if not is_tensor(single) or rank(single) != 5 or rank(wide) != 5 or rank(node) != 4:
        return None
    batch, heads, times, *rest = sizes(wide)
    is_expanded = sizes(single) == (batch, heads, 1, *rest)
    is_joined = sizes(node) == (batch, simplify(heads * times), *rest)
    return (single, times) if is_expanded and is_joined else None


def _is_repeated(node: fx.Node) -> bool:
    """Whether keys and values of an attention are both repeated."""
    if not is_call(node, ATTENTION) or node.kwargs.get("enable_gqa", False):
        return False
    return all(_repetition(operand) is not None for operand in node.args[1:3])


def _differs(node: fx.Node, program: Program) -> str | None:
    found = [_repetition(operand) for operand in node.args[1:3]]
    times = {repetition[1] for repetition in found if repetition is not None}
    return None if len(times) == 1 else "keys and values are repeated differently"


def _share(node: fx.Node, editor: Editor) -> None:
    """Attend to the heads there are."""
    heads = []
    for operand in node.args[1:3]:
        repetition = _repetition(operand)
        if repetition is None:
            return
        source = repetition[0]
        if rank(source) == 5:
            source = editor.call(node, aten.squeeze.dim, source, 2, before=node)
        heads.append(source)
    options = {**node.kwargs, "enable_gqa": True}
    args = (node.args[0], *heads, *node.args[3:])
    editor.replace(node, editor.call(node, ATTENTION, *args, before=node, **options))


RULES = (NodeRule("grouped-queries", _is_repeated, _share, _differs),)
