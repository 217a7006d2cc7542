"""Turn `dequantize -> product` into integer products, and keep values as codes where possible."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.rewrite import apply
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.lower.decompose import Chain

aten, effc = torch.ops.aten, torch.ops.effc
DEQUANTIZE, QUANTIZE = "effc.dequantize.default", "effc.quantize.default"


@dataclass(frozen=True)
class LowerInteger(Pass):
    """Replace products of dequantized codes by exact integer products and one rounding."""

    name: ClassVar[str] = "lower-integer"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Apply every rule until none fits."""
        rules = (_QuantizeOfSame(), _QuantizeAfterMove(), _IntegerProduct(), _AddDequantized())
        rewrites = apply(program, rules)
        fired, refusals = rewrites.fired, rewrites.refusals
        last = apply(program, (_StaticReciprocal(),))
        is_changed = rewrites.changed or last.changed
        return Outcome(is_changed, dict(fired + last.fired), tuple(refusals))


def is_call(node: object, name: str) -> bool:
    """Whether something is a call of an operator."""
    return isinstance(node, fx.Node) and node.op == "call_function" and op_name(node) == name


class _QuantizeOfSame:
    """quantize(dequantize(q, s, z), s, z) is q."""

    name = "quantize-of-same"

    def match(self, node: fx.Node) -> bool:
        return (
            is_call(node, QUANTIZE)
            and is_call(node.args[0], DEQUANTIZE)
            and tuple(node.args[0].args[1:3]) == tuple(node.args[1:3])
            and node.args[0].args[0].meta["val"].dtype == node.args[5]
        )

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        editor.replace(node, node.args[0].args[0])


MOVES = (
    "aten.max_pool2d.default", "aten.view.default", "aten.reshape.default", "aten.permute.default",
    "aten.transpose.int", "aten.slice.Tensor", "aten.select.int", "aten.unsqueeze.default",
    "aten.squeeze.dim", "aten.squeeze.dims", "aten.flatten.using_ints", "aten.expand.default",
    "aten.clone.default",
)  # fmt: skip


class _QuantizeAfterMove:
    """quantize(move(dequantize(q, s, z)), s, z) is move(q): moving commutes with rounding."""

    name = "quantize-after-move"

    def match(self, node: fx.Node) -> bool:
        if not is_call(node, QUANTIZE) or not isinstance(node.args[0], fx.Node):
            return False
        move = node.args[0]
        if move.op != "call_function" or op_name(move) not in MOVES:
            return False
        inner = move.args[0]
        return (
            is_call(inner, DEQUANTIZE)
            and tuple(inner.args[1:3]) == tuple(node.args[1:3])
            and inner.args[0].meta["val"].dtype == node.args[5]
        )

    def check(self, node: fx.Node, program: Program) -> str | None:
        if node.args[1].meta["val"].dim() > 0:
            return "the scale is not per tensor"
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        move = node.args[0]
        codes = move.args[0].args[0]
        moved = editor.call(move, move.target, codes, *move.args[1:], before=node, **move.kwargs)
        editor.replace(node, moved)


class _IntegerProduct:
    """linear or conv2d of dequantized codes and dequantized weights."""

    name = "integer-product"

    def match(self, node: fx.Node) -> bool:
        return (
            node.op == "call_function"
            and op_name(node) in ("aten.linear.default", "aten.conv2d.default")
            and is_call(node.args[0], DEQUANTIZE)
            and is_call(node.args[1], DEQUANTIZE)
        )

    def check(self, node: fx.Node, program: Program) -> str | None:
        weight, source = node.args[1], node.args[0]
        if weight.args[2] is not None or weight.args[0].op != "get_attr":
            return "the weight is not a symmetric constant"
        if weight.args[0].meta["val"].dtype != torch.int8:
            return "the weight's codes are not int8"
        if source.args[0].meta["val"].dtype != torch.uint8:
            return "the activation's codes are not uint8"
        if len(node.args) < 7 and op_name(node) == "aten.conv2d.default":
            return "the convolution is not in canonical form"
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        new = Chain(editor, node)
        codes, scale, zero_point = node.args[0].args
        weight, weight_scale, _ = node.args[1].args
        bias = node.args[2] if len(node.args) > 2 else None
        if op_name(node) == "aten.linear.default":
            total = new(effc.linear_integer.default, codes, weight, zero_point)
            column = [-1]
        else:
            settings = [list(value) for value in node.args[3:6]]
            total = new(
                effc.conv2d_integer.default, codes, weight, zero_point, *settings, node.args[6]
            )
            column = [-1, 1, 1]
        multiplier = _multiplier(editor, new, scale, weight_scale, column)
        addend = _addend(editor, node, bias, weight, column)
        editor.replace(node, new(effc.fused_multiply_add.default, total, multiplier, addend))


def _multiplier(
    editor: Editor, new: Chain, scale: fx.Node, weight_scale: fx.Node, column: list[int]
) -> fx.Node:
    """The product of both scales: a weight if both are, else computed at run time."""
    tensors = attribute(editor.module, weight_scale.target).reshape(column)
    if scale.op == "get_attr":
        product = attribute(editor.module, scale.target) * tensors
        return editor.weight(f"{weight_scale.target}_product", product, new.node)
    return new(
        aten.mul.Tensor, scale, editor.weight(f"{weight_scale.target}_row", tensors, new.node)
    )


def _addend(
    editor: Editor, node: fx.Node, bias: fx.Node | None, weight: fx.Node, column: list[int]
) -> fx.Node:
    if bias is None:
        zeros = torch.zeros(weight.meta["val"].shape[0]).reshape(column)
        return editor.weight(f"{weight.target}_no_bias", zeros, node)
    if column == [-1] or bias.op != "get_attr":
        return bias
    return editor.weight(
        f"{bias.target}_column", attribute(editor.module, bias.target).reshape(column), node
    )


class _StaticReciprocal:
    """quantize by a static scale multiplies by its reciprocal, computed here."""

    name = "static-reciprocal"

    def match(self, node: fx.Node) -> bool:
        return is_call(node, QUANTIZE) and node.args[1].op == "get_attr"

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        scale = node.args[1]
        inverse = torch.reciprocal(attribute(editor.module, scale.target))
        weight = editor.weight(f"{scale.target}_inverse", inverse, node)
        new = Chain(editor, node)
        editor.replace(
            node, new(effc.quantize_scaled.default, node.args[0], weight, *node.args[2:])
        )


class _AddDequantized:
    """x + dequantize(q, s, z) with one rounding: fused_multiply_add(q - z, s, x)."""

    name = "add-dequantized"

    def match(self, node: fx.Node) -> bool:
        return is_call(node, "aten.add.Tensor") and not node.kwargs and self._side(node) is not None

    def _side(self, node: fx.Node) -> int | None:
        """Which operand is dequantized and as large as the result."""
        for side in (1, 0):
            operand, other = node.args[side], node.args[1 - side]
            fits = is_call(operand, DEQUANTIZE) and isinstance(other, fx.Node)
            if fits and operand.meta["val"].shape == node.meta["val"].shape:
                return side
        return None

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        new, side = Chain(editor, node), self._side(node)
        if side is None:
            return
        codes, scale, zero_point = node.args[side].args
        shifted = new(aten._to_copy.default, codes, dtype=torch.int32)
        if zero_point is not None:
            shifted = new(aten.sub.Tensor, shifted, zero_point)
        other = node.args[1 - side]
        editor.replace(node, new(effc.fused_multiply_add.default, shifted, scale, other))
