"""Turn `dequantize -> product` into integer products, and keep values as codes where possible."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.rewrite import apply
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.lower.borders import PAD
from effc.passes.lower.chain import Chain
from effc.passes.lower.gates import GateOfCodes, MeanOfCodes
from effc.passes.lower.grouped import GroupedProduct, JoinedProduct
from effc.passes.lower.interpolate import Interpolate
from effc.passes.lower.quantize_rows import QuantizeBeforeReshape
from effc.passes.lower.requantize import Requantize
from effc.passes.lower.unpack import UnpackWeight

aten, effc = torch.ops.aten, torch.ops.effc
SHORT_TABLES = "avx512bw"
DEQUANTIZE, QUANTIZE = "effc.dequantize.default", "effc.quantize.default"


@dataclass(frozen=True)
class LowerInteger(Pass):
    """Replace products of dequantized codes by exact integer products and one rounding."""

    name: ClassVar[str] = "lower-integer"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Apply every rule until none fits."""
        rules = (
            UnpackWeight(), _QuantizeOfSame(), _QuantizeAfterMove(), _QuantizeAfterPad(),
            QuantizeBeforeReshape(), _QuantizeBeforePermute(), _IntegerProduct(), GroupedProduct(),
            JoinedProduct(), _AddDequantized(), MeanOfCodes(), GateOfCodes(),
        )  # fmt: skip
        has_tables = ctx.target is not None and ctx.target.has(SHORT_TABLES)
        tables = (Interpolate(),) if has_tables else ()
        last = (Requantize(), _StaticReciprocal())
        steps = [apply(program, each) for each in (rules, tables, last)]
        fired: Counter[str] = sum((step.fired for step in steps), Counter())
        refusals = tuple(refusal for step in steps for refusal in step.refusals)
        return Outcome(any(step.changed for step in steps), dict(fired), refusals)


def is_call(node: object, name: str) -> bool:
    """Whether something is a call of an operator."""
    return isinstance(node, fx.Node) and node.op == "call_function" and op_name(node) == name


def keeps_codes(quantize: fx.Node, codes: fx.Node) -> bool:
    """Whether codes of the same type and scale cannot lie outside a quantization's range."""
    qmin, qmax, dtype = quantize.args[3:6]
    limits = torch.iinfo(dtype)
    if codes.meta["val"].dtype != dtype:
        return False
    if is_call(codes, QUANTIZE):
        return codes.args[3] >= qmin and codes.args[4] <= qmax
    return qmin <= limits.min and qmax >= limits.max


class _QuantizeOfSame:
    """quantize(dequantize(q, s, z), s, z) is q."""

    name = "quantize-of-same"

    def match(self, node: fx.Node) -> bool:
        return (
            is_call(node, QUANTIZE)
            and is_call(node.args[0], DEQUANTIZE)
            and tuple(node.args[0].args[1:3]) == tuple(node.args[1:3])
            and keeps_codes(node, node.args[0].args[0])
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
            and keeps_codes(node, inner.args[0])
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


PERMUTATIONS = ("aten.permute.default", "aten.transpose.int", "aten.expand.default")


class _QuantizeBeforePermute:
    """quantize(permute(x)) is permute(quantize(x)): it then fuses with what computes x."""

    name = "quantize-before-permute"

    def match(self, node: fx.Node) -> bool:
        if not is_call(node, QUANTIZE) or not isinstance(node.args[0], fx.Node):
            return False
        view = node.args[0]
        is_view = view.op == "call_function" and op_name(view) in PERMUTATIONS
        return is_view and all(one is None or one.meta["val"].dim() == 0 for one in node.args[1:3])

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        view = node.args[0]
        codes = editor.call(node, node.target, view.args[0], *node.args[1:], before=node)
        moved = editor.call(view, view.target, codes, *view.args[1:], before=node, **view.kwargs)
        editor.replace(node, moved)


class _QuantizeAfterPad:
    """quantize(pad(x, 0), s, z) is pad(quantize(x, s, z), z)."""

    name = "quantize-after-pad"

    def match(self, node: fx.Node) -> bool:
        return is_call(node, QUANTIZE) and is_call(node.args[0], PAD)

    def check(self, node: fx.Node, program: Program) -> str | None:
        pad, zero_point = node.args[0], node.args[2]
        if len(pad.args) > 2 and pad.args[2] != 0:
            return "it pads with something else than zero"
        is_number = zero_point is not None and zero_point.op == "get_attr"
        if not is_number or zero_point.meta["val"].dim() > 0:
            return "the zero point is not one constant"
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        pad, zero_point = node.args[0], node.args[2]
        codes = editor.call(node, node.target, pad.args[0], *node.args[1:], before=node)
        fill = int(attribute(editor.module, zero_point.target))
        editor.replace(node, editor.call(pad, pad.target, codes, pad.args[1], fill, before=node))


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
        is_linear = op_name(node) == "aten.linear.default"
        if not is_linear and len(node.args) < 7:
            return "the convolution is not in canonical form"
        return _scale_reason(source, weight, is_linear) or _bias_reason(node, is_linear)

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


def _scale_reason(source: fx.Node, weight: fx.Node, is_linear: bool) -> str | None:
    """Why scales cannot leave the sum: those of an activation must be per tensor, row or image."""
    scales = [operand for operand in source.args[1:] if operand is not None]
    if any(_differs_along(operand, source, -1 if is_linear else 1) for operand in scales):
        return "the activation's scale is not per tensor, row or image"
    if weight.args[1].op != "get_attr" or _differs_along(weight.args[1], weight, 1):
        return "the weight's scale is not a constant per output"
    return None


def _differs_along(scale: fx.Node, values: fx.Node, first: int) -> bool:
    """Whether a scale that broadcasts against values has several from a dimension on."""
    shape, rank = scale.meta["val"].shape, values.meta["val"].dim()
    return any(size != 1 for size in ((1,) * (rank - len(shape)) + tuple(shape))[first:])


def _bias_reason(node: fx.Node, is_linear: bool) -> str | None:
    bias = node.args[2] if len(node.args) > 2 else None
    is_computed = bias is not None and bias.op != "get_attr"
    return "the bias is not a weight" if is_computed and not is_linear else None


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
    if column == [-1]:
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
        is_float32 = node.meta["val"].dtype == torch.float32
        return None if is_float32 else "the sum is not float32"

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
