"""Turn products of values that were rounded to 16 bits into products of 16-bit floats."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.ops.half import HALVES
from effc.ir.opspec import op_name
from effc.ir.program import Program
from effc.ir.rewrite import apply
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.lower.borders import PAD
from effc.passes.lower.integer import MOVES, is_call

aten, effc = torch.ops.aten, torch.ops.effc
CAST = "aten._to_copy.default"
PRODUCTS = {
    "aten.linear.default": (2, effc.linear_half.default),
    "aten.conv2d.default": (2, effc.conv2d_half.default),
    "aten.scaled_dot_product_attention.default": (3, effc.attention_half.default),
}


@dataclass(frozen=True)
class LowerHalf(Pass):
    """Replace products of 16-bit floats that were widened by products that read 16 bits."""

    name: ClassVar[str] = "lower-half"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Apply every rule until none fits."""
        rewrites = apply(program, (_RoundBeforeMove(), _HalfProduct()))
        return Outcome(rewrites.changed, dict(rewrites.fired), tuple(rewrites.refusals))


def _is_narrowing(node: object) -> bool:
    """Whether a node rounds float32 to 16 bits."""
    if not isinstance(node, fx.Node) or not is_call(node, CAST):
        return False
    source = node.args[0].meta["val"].dtype
    return source == torch.float32 and node.kwargs.get("dtype") in HALVES


def _is_widening(node: object) -> bool:
    """Whether a node turns 16 bits into float32."""
    if not isinstance(node, fx.Node) or not is_call(node, CAST):
        return False
    return node.args[0].meta["val"].dtype in HALVES and node.kwargs.get("dtype") == torch.float32


class _RoundBeforeMove:
    """round(move(x)) is move(round(x)): the rounding then fuses with what computes x.

    Padding with zeros counts as a move: it then is a border of what is rounded.
    """

    name = "round-before-move"

    def match(self, node: fx.Node) -> bool:
        if not _is_narrowing(node):
            return False
        move = node.args[0]
        if move.op != "call_function":
            return False
        is_zero = op_name(move) == PAD and (len(move.args) < 3 or move.args[2] == 0)
        return is_zero or op_name(move) in MOVES

    def check(self, node: fx.Node, program: Program) -> str | None:
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        move = node.args[0]
        half = editor.call(node, node.target, move.args[0], before=node, **node.kwargs)
        moved = editor.call(move, move.target, half, *move.args[1:], before=node, **move.kwargs)
        editor.replace(node, moved)


class _HalfProduct:
    """A product whose factors all were widened from the same 16-bit type."""

    name = "half-product"

    def match(self, node: fx.Node) -> bool:
        if node.op != "call_function" or op_name(node) not in PRODUCTS:
            return False
        factors = node.args[: PRODUCTS[op_name(node)][0]]
        if not all(map(_is_widening, factors)):
            return False
        return len({factor.args[0].meta["val"].dtype for factor in factors}) == 1

    def check(self, node: fx.Node, program: Program) -> str | None:
        if op_name(node) == "aten.conv2d.default" and len(node.args) < 7:
            return "the convolution is not in canonical form"
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        count, target = PRODUCTS[op_name(node)]
        factors = [factor.args[0] for factor in node.args[:count]]
        if count == 2:
            bias = node.args[2] if len(node.args) > 2 else None
            settings = [list(value) for value in node.args[3:6]]
            rest = (bias, *settings, *node.args[6:])
        else:
            rest = attention_settings(node)
        editor.replace(node, editor.call(node, target, *factors, *rest, before=node))


def attention_settings(node: fx.Node) -> tuple[object, ...]:
    """Mask, causality, scale, grouping and result layout of a call of softmax attention."""
    result = node.meta["val"]

    def setting(position: int, name: str, default: object) -> object:
        return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)

    return (
        setting(3, "attn_mask", None),
        setting(5, "is_causal", False),
        setting(6, "scale", None),
        setting(7, "enable_gqa", False),
        result.dim() > 2 and not result.is_contiguous(),
    )
