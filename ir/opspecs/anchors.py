"""Operators that do the work, with their multiply-adds."""

from torch import fx

from effc.ir.opspec import Kind, Macs, Names, OpSpec, numel
from effc.ir.symbols import Size, product, simplify, size_of


def _shape(node: fx.Node, names: Names) -> list[Size]:
    return [size_of(size, names) for size in node.meta["val"].shape]


def _matrix_macs(node: fx.Node, names: Names) -> Size:
    """Output elements times the length of the dot product (last dimension of the first factor)."""
    return simplify(numel(node, names) * _shape(node.args[0], names)[-1])


def _bias_first_macs(node: fx.Node, names: Names) -> Size:
    return simplify(numel(node, names) * _shape(node.args[1], names)[-1])


def _convolution_macs(node: fx.Node, names: Names) -> Size:
    """Output elements times the filter's inputs; weight [out, in/groups, *kernel]."""
    return simplify(numel(node, names) * product(_shape(node.args[1], names)[1:]))


def _transposed_macs(node: fx.Node, names: Names) -> Size:
    """Input elements times the filter's outputs; weight [in, out/groups, *kernel]."""
    return simplify(numel(node.args[0], names) * product(_shape(node.args[1], names)[1:]))


def _general_convolution_macs(node: fx.Node, names: Names) -> Size:
    is_transposed = node.args[6]
    return (_transposed_macs if is_transposed else _convolution_macs)(node, names)


def _attention_macs(node: fx.Node, names: Names) -> Size:
    """Scores and weighted sum: query [..., L, E], key [..., S, E], value [..., S, V]."""
    query, value = _shape(node.args[0], names), _shape(node.args[2], names)
    return simplify(product(query[:-1]) * value[-2] * (query[-1] + value[-1]))


def _linear_attention_macs(node: fx.Node, names: Names) -> Size:
    """Per step: the state written by key heads, read by heads; beta reads it once more."""
    query, key, value = (_shape(part, names) for part in node.args[:3])
    writes = key[1] if node.args[5] is None else 2 * key[1]
    return simplify(product([query[0], query[2], query[3], value[3]]) * (query[1] + writes))


def _anchor(macs: Macs) -> OpSpec:
    return OpSpec(Kind.ANCHOR, macs=macs)


MATRIX = [
    "aten.linear.default",
    "aten.mm.default",
    "aten.bmm.default",
    "aten.matmul.default",
    "effc.linear_integer.default",
    "effc.linear_half.default",
    "effc.linear_blocks.default",
    "effc.linear_blocks_half.default",
    "effc.linear_blocks_integer.default",
    "effc.linear_grouped.default",
    "effc.linear_grouped_integer.default",
]
CONVOLUTION = [
    "aten.conv1d.default",
    "aten.conv2d.default",
    "aten.conv2d.padding",
    "aten.conv1d.padding",
    "aten.conv3d.default",
    "effc.conv2d_integer.default",
    "effc.conv2d_half.default",
]
TABLE: dict[str, OpSpec] = {
    **{name: _anchor(_matrix_macs) for name in MATRIX},
    **{name: _anchor(_convolution_macs) for name in CONVOLUTION},
    "aten.addmm.default": _anchor(_bias_first_macs),
    "aten.baddbmm.default": _anchor(_bias_first_macs),
    "aten.convolution.default": _anchor(_general_convolution_macs),
    "aten.conv_transpose1d.default": _anchor(_transposed_macs),
    "aten.conv_transpose2d.input": _anchor(_transposed_macs),
    "aten.conv_transpose3d.input": _anchor(_transposed_macs),
    "aten.scaled_dot_product_attention.default": _anchor(_attention_macs),
    "effc.attention_half.default": _anchor(_attention_macs),
    "effc.attention_integer.default": _anchor(_attention_macs),
    "effc.linear_attention.default": _anchor(_linear_attention_macs),
}
