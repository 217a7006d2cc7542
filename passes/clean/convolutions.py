"""Rules for convolutions: one operator per rank, padding as numbers."""

from typing import Any

from torch import fx

from effc.ir.edit import Editor
from effc.ir.program import Program
from effc.passes.clean.matching import NodeRule, aten, dtype, has_one_user, is_call, rank, sizes

FORWARD: dict[int, Any] = {
    3: aten.conv1d.default,
    4: aten.conv2d.default,
    5: aten.conv3d.default,
}
TRANSPOSED: dict[int, Any] = {3: aten.conv_transpose1d.default, 4: aten.conv_transpose2d.input}
NAMED_PADDING: dict[Any, Any] = {
    aten.conv1d.padding: aten.conv1d.default,
    aten.conv2d.padding: aten.conv2d.default,
}


def _is_general(node: fx.Node) -> bool:
    if not is_call(node, aten.convolution.default):
        return False
    return rank(node) in (TRANSPOSED if node.args[6] else FORWARD)


def _specialise(node: fx.Node, editor: Editor) -> None:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
    table, settings = FORWARD, [stride, padding, dilation, groups]
    if transposed:
        table, settings = TRANSPOSED, [stride, padding, output_padding, groups, dilation]
    target = table[rank(node)]
    new = editor.call(node, target, x, weight, bias, *settings, before=node)
    editor.replace(node, new)


def _surplus(node: fx.Node) -> list[int]:
    """How far the filter of each spatial dimension reaches beyond one pixel."""
    weight: Any = node.args[1]
    dilation: Any = node.args[5]
    return [step * (width - 1) for step, width in zip(dilation, sizes(weight)[2:], strict=True)]


def _is_named(node: fx.Node) -> bool:
    return is_call(node, *NAMED_PADDING) and len(node.args) == 7


def _needs_uneven_padding(node: fx.Node, program: Program) -> str | None:
    if node.args[4] == "same" and any(total % 2 for total in _surplus(node)):
        return "padding 'same' of an even filter is not the same on both sides"
    return None


def _number_padding(node: fx.Node, editor: Editor) -> None:
    totals = _surplus(node)
    padding = [total // 2 if node.args[4] == "same" else 0 for total in totals]
    target, args = NAMED_PADDING[node.target], (*node.args[:4], padding, *node.args[5:])
    editor.replace(node, editor.call(node, target, *args, before=node))


def _is_constant_padding(node: fx.Node) -> bool:
    is_padding = is_call(node, aten.pad.default) and len(node.args) == 4
    return is_padding and node.args[2] == "constant"


def _unify_padding(node: fx.Node, editor: Editor) -> None:
    x, widths, _, value = node.args
    number: Any = 0 if value is None else value
    number = float(number) if dtype(node).is_floating_point else number
    new = editor.call(node, aten.constant_pad_nd.default, x, widths, number, before=node)
    editor.replace(node, new)


def _has_zero_padding(node: fx.Node) -> bool:
    if not is_call(node, aten.conv1d.default, aten.conv2d.default) or len(node.args) != 7:
        return False
    pad: Any = node.args[0]
    return is_call(pad, aten.constant_pad_nd.default) and len(pad.args) == 3 and pad.args[2] == 0


def _cannot_absorb(node: fx.Node, program: Program) -> str | None:
    pad: Any = node.args[0]
    own: Any = node.args[4]
    widths = pad.args[1]
    if not has_one_user(pad):
        return "the padded input has other users"
    if len(widths) != 2 * len(own):
        return "the padding reaches beyond the spatial dimensions"
    if not all(isinstance(width, int) and width >= 0 for width in widths):
        return "the padding is negative or not a number"
    if widths[0::2] != widths[1::2]:
        return "the padding is not the same on both sides"
    return None


def _absorb_padding(node: fx.Node, editor: Editor) -> None:
    pad: Any = node.args[0]
    extra = pad.args[1][0::2][::-1]
    before: Any = node.args[4]
    padding = [width + more for width, more in zip(before, extra, strict=True)]
    args = (pad.args[0], *node.args[1:4], padding, *node.args[5:])
    target: Any = node.target
    editor.replace(node, editor.call(node, target, *args, before=node))


RULES = (
    NodeRule("general-convolution", _is_general, _specialise),
    NodeRule("named-padding", _is_named, _number_padding, _needs_uneven_padding),
    NodeRule("constant-padding", _is_constant_padding, _unify_padding),
    NodeRule("absorb-padding", _has_zero_padding, _absorb_padding, _cannot_absorb),
)
