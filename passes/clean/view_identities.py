"""Rules for calls that only change a shape or an order: drop those that do nothing, merge the rest.

New changes of shape are written as `reshape`; `settle_views` makes them `view` where it can.
"""

from typing import Any

from torch import fx

from effc.ir.edit import Editor
from effc.passes.clean.matching import NodeRule, aten, is_call, is_same_type, is_tensor, rank, sizes

RESHAPES = (aten.view.default, aten.reshape.default)
SAME_ELEMENTS = (
    *RESHAPES,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
KEEP_WHERE_SHAPE_STAYS = (
    *RESHAPES,
    aten.expand.default,
    aten.repeat.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.adaptive_avg_pool2d.default,
)
POOLS = (aten.avg_pool2d.default, aten.max_pool2d.default)


def _unchanged(node: fx.Node) -> fx.Node | None:
    """The input of a call that gives it back."""
    source: Any = node.args[0] if node.args else None
    if node.op != "call_function" or not is_tensor(node):
        return None
    if is_call(node, aten.cat.default):
        return source[0] if len(source) == 1 else None
    if not is_tensor(source) or not is_same_type(node, source) or not _does_nothing(node):
        return None
    unchanged: fx.Node = source
    return unchanged


def _does_nothing(node: fx.Node) -> bool:
    """Whether a call whose result has the type of its input gives its input."""
    args: Any = node.args
    settings: Any = args[1] if len(args) > 1 else None
    if is_call(node, *KEEP_WHERE_SHAPE_STAYS):
        return True
    if is_call(node, aten.permute.default):
        return list(settings) == list(range(rank(node)))
    if is_call(node, aten.slice.Tensor):
        return len(args) == 5 and bool(args[4] == 1)
    if is_call(node, aten.constant_pad_nd.default, aten.roll.default):
        return all(isinstance(width, int) and width == 0 for width in settings)
    if is_call(node, *POOLS):
        return list(args[1:4]) == [[1, 1], [1, 1], [0, 0]]
    return is_call(node, aten.flip.default) and not settings


def _drop(node: fx.Node, editor: Editor) -> None:
    source = _unchanged(node)
    if source is None:
        raise TypeError(f"{node.name} changes its input")
    editor.replace(node, source)


def _root(node: fx.Node) -> Any:
    """Where the elements come from that a chain of changes of shape passes on."""
    source: Any = node.args[0]
    while is_call(source, *SAME_ELEMENTS):
        source = source.args[0]
    return source


def _is_round_trip(node: fx.Node) -> bool:
    return is_call(node, *SAME_ELEMENTS) and sizes(_root(node)) == sizes(node)


def _drop_round_trip(node: fx.Node, editor: Editor) -> None:
    editor.replace(node, _root(node))


def _is_second_reshape(node: fx.Node) -> bool:
    return is_call(node, *RESHAPES) and is_call(node.args[0], *SAME_ELEMENTS)


def _merge_reshapes(node: fx.Node, editor: Editor) -> None:
    new = editor.call(node, aten.reshape.default, _root(node), node.args[1], before=node)
    editor.replace(node, new)


def _is_second_permutation(node: fx.Node) -> bool:
    return is_call(node, aten.permute.default) and is_call(node.args[0], aten.permute.default)


def _merge_permutations(node: fx.Node, editor: Editor) -> None:
    inner: Any = node.args[0]
    order: Any = node.args[1]
    merged = [inner.args[1][position] for position in order]
    new = editor.call(node, aten.permute.default, inner.args[0], merged, before=node)
    editor.replace(node, new)


def _is_second_expansion(node: fx.Node) -> bool:
    return is_call(node, aten.expand.default) and is_call(node.args[0], aten.expand.default)


def _merge_expansions(node: fx.Node, editor: Editor) -> None:
    inner: Any = node.args[0]
    shape: Any = node.args[1]
    ahead = len(shape) - len(inner.args[1])
    merged = [
        inner.args[1][position - ahead] if position >= ahead and size == -1 else size
        for position, size in enumerate(shape)
    ]
    new = editor.call(node, aten.expand.default, inner.args[0], merged, before=node)
    editor.replace(node, new)


RULES = (
    NodeRule("drop-identity", lambda node: _unchanged(node) is not None, _drop),
    NodeRule("shape-round-trip", _is_round_trip, _drop_round_trip),
    NodeRule("merge-reshapes", _is_second_reshape, _merge_reshapes),
    NodeRule("merge-permutations", _is_second_permutation, _merge_permutations),
    NodeRule("merge-expansions", _is_second_expansion, _merge_expansions),
)
