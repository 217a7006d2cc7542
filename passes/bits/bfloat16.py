"""Products of bfloat16 values: both factors are rounded, sums stay float32."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute, dtype_name, value_of
from effc.ir.provenance import label
from effc.ir.rewrite import apply
from effc.ir.target import BF16
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.layers import DEQUANTIZE
from effc.passes.clean.one_row import ONE_ROW

RULE = "bfloat16"
LAYERS = ("aten.linear.default", "aten.conv2d.default")
ATTENTION = "aten.scaled_dot_product_attention.default"
FACTORS = {**dict.fromkeys(LAYERS, 2), ATTENTION: 3}
HALF = torch.bfloat16


@dataclass(frozen=True)
class Bfloat16(Pass):
    """Linear layers, convolutions and attention on bfloat16 values.

    Weights are stored in bfloat16, activations are rounded to it in front of every product, sums
    are kept in float32. The rounding is visible as a cast to bfloat16 and back.

    Attributes:
        layers: Whether linear layers and convolutions take part.
        attention: Whether attention does.
    """

    name: ClassVar[str] = RULE
    layers: bool = True
    attention: bool = True

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Round the factors of every product of every method."""
        is_changed = apply(program, ONE_ROW).changed
        wanted = {*(LAYERS if self.layers else ()), *((ATTENTION,) if self.attention else ())}
        products = [node for m in program.methods.values() for node in products_of(m, wanted)]
        check_patterns(ctx, map(label, products))
        refusals: list[Refusal] = []
        notes: dict[str, dict[str, Any]] = {}
        for method, module in program.methods.items():
            editor = Editor(program, method, RULE)
            for node in products_of(module, wanted):
                reason = "excluded by the user" if ctx.is_excluded(label(node)) else refused(node)
                if reason:
                    refusals.append(Refusal(RULE, label(node), reason))
                    continue
                round_factors(editor, node)
                notes[label(node)] = {"activation": "bfloat16", **_weight_note(node)}
            is_changed |= editor.finish()
        return Outcome(is_changed, {"layers": notes}, tuple(refusals))


def products_of(module: fx.GraphModule, wanted: set[str]) -> list[fx.Node]:
    """The products of a method, in order."""
    return [node for node in module.graph.nodes if op_name(node) in wanted]


def refused(node: fx.Node) -> str | None:
    """Why the factors of a product cannot be rounded, or None."""
    for factor in node.args[: FACTORS[op_name(node)]]:
        value = value_of(factor)
        if value.dtype != torch.float32:
            return f"it reads {dtype_name(value.dtype)}; only f32 is rounded"
        if op_name(factor) in DEQUANTIZE:
            return "it reads quantized values"
    if op_name(node) == "aten.conv2d.default" and value_of(node.args[0]).dim() != 4:
        return "its input has no batch dimension"
    return None


def round_factors(editor: Editor, node: fx.Node) -> None:
    """Let a product read its factors rounded to bfloat16; constants are stored that way."""
    for position, factor in enumerate(node.args[: FACTORS[op_name(node)]]):
        if factor.op == "get_attr":
            rounded = attribute(editor.module, str(factor.target)).to(HALF)
            half = editor.weight(f"{factor.target}_bfloat16", rounded, factor)
        else:
            half = editor.call(
                node, torch.ops.aten._to_copy.default, factor, before=node, dtype=HALF
            )
        back = torch.ops.aten._to_copy.default
        wide = editor.call(node, back, half, before=node, dtype=torch.float32)
        editor.set_argument(node, position, wide)


def round_attention(program: Program, method: str, ctx: PassContext) -> tuple[dict[str, Any], bool]:
    """Round the factors of every attention that can be and that the user did not exclude.

    Returns:
        Notes by layer, and whether anything was changed.
    """
    editor, notes = Editor(program, method, RULE), {}
    for node in products_of(editor.module, {ATTENTION}):
        if not ctx.is_excluded(label(node)) and refused(node) is None:
            round_factors(editor, node)
            notes[label(node)] = {"activation": "bfloat16"}
    return notes, editor.finish()


def has_products(ctx: PassContext) -> bool:
    """Whether the target multiplies bfloat16 faster than float32."""
    return ctx.target is not None and ctx.target.has(BF16)


def _weight_note(node: fx.Node) -> dict[str, str]:
    return {"weight": "bfloat16"} if op_name(node) in LAYERS else {}


def attention_names(program: Program) -> list[str]:
    """Names of everything in a program that attends."""
    return [label(n) for m in program.methods.values() for n in products_of(m, {ATTENTION})]
