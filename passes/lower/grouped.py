"""Products with low-bit weights: the dequantized weight disappears into the product."""

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.passes.lower.chain import Chain

aten, effc = torch.ops.aten, torch.ops.effc
LINEAR, GROUPED = "aten.linear.default", "effc.dequantize_grouped.default"
DEQUANTIZE, CAT = "effc.dequantize.default", "aten.cat.default"
LINEAR_OP = aten.linear.default


def _is_call(node: object, name: str) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and op_name(node) == name


class GroupedProduct:
    """linear of a dequantized low-bit weight, with float32 or int8 activations."""

    name = "grouped-product"

    def match(self, node: fx.Node) -> bool:
        """Whether a linear reads such a weight."""
        return _is_call(node, LINEAR) and _is_call(node.args[1], GROUPED)

    def check(self, node: fx.Node, program: Program) -> str | None:
        """The codes must be known, since kernels read them packed."""
        operands = [operand for operand in node.args[1].args[:3] if operand is not None]
        is_known = all(operand.op == "get_attr" for operand in operands)
        return None if is_known else "the weight is not a constant"

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """The product with codes, then the activations' scale and the bias."""
        new = Chain(editor, node)
        bias = node.args[2] if len(node.args) > 2 else None
        *operands, _ = node.args[1].args[:6]
        table = [one for one in node.args[1].args[6:] if one is not None]
        codes, scale = (None, None) if table else _integer_activations(node.args[0])
        if codes is None:
            total = new(effc.linear_grouped.default, node.args[0], *operands, *table)
            result = total if bias is None else new(aten.add.Tensor, total, bias)
        else:
            total = new(effc.linear_grouped_integer.default, codes, *operands)
            after = (aten.mul.Tensor,) if bias is None else (effc.fused_multiply_add.default, bias)
            result = new(after[0], total, scale, *after[1:])
        editor.replace(node, result)


class JoinedProduct:
    """linear of weights side by side: the sum of the products with their parts of the features."""

    name = "joined-product"

    def match(self, node: fx.Node) -> bool:
        """Whether a linear reads such a weight."""
        return _is_call(node, LINEAR) and _is_call(node.args[1], CAT) and len(node.args[1].args) > 1

    def check(self, node: fx.Node, program: Program) -> str | None:
        """All parts must be low-bit weights, along the features."""
        parts, dim = node.args[1].args
        is_stored = dim in (1, -1) and all(_is_call(part, GROUPED) for part in parts)
        return None if is_stored else "its parts are no low-bit weights"

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """A product per part, the bias in the first one."""
        new, first, total = Chain(editor, node), 0, None
        for part in node.args[1].args[0]:
            last = first + int(part.args[5])
            bias = node.args[2:3] if total is None else ()
            product = new(LINEAR_OP, _sliced(node.args[0], first, last, new), part, *bias)
            total = product if total is None else new(aten.add.Tensor, total, product)
            first = last
        editor.replace(node, total)


def _sliced(source: fx.Node, first: int, last: int, new: Chain) -> fx.Node:
    """Some features of a value, of its codes where it has codes."""
    if _is_call(source, DEQUANTIZE) and source.args[1].meta["val"].shape[-1:] == (1,):
        codes = new(aten.slice.Tensor, source.args[0], -1, first, last)
        return new(effc.dequantize.default, codes, *source.args[1:])
    return new(aten.slice.Tensor, source, -1, first, last)


def _integer_activations(source: fx.Node) -> tuple[fx.Node | None, fx.Node | None]:
    """Codes and scale of activations in int8 around zero, one scale per tensor or row."""
    if not _is_call(source, DEQUANTIZE):
        return None, None
    codes, scale, zero_point = source.args
    is_per_row = scale.meta["val"].dim() == 0 or scale.meta["val"].shape[-1] == 1
    fits = zero_point is None and codes.meta["val"].dtype == torch.int8 and is_per_row
    return (codes, scale) if fits else (None, None)
