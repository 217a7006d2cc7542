"""The pass `peel-tokens`: what layers compute of a constant first token is a constant."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal
from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program, attribute, value_of
from effc.ir.provenance import label
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.conditioning.observed import observe
from effc.passes.bits.layers import layer_names
from effc.passes.bits.rounding.walk import Inputs
from effc.passes.bits.weight_writer import bias_of

RULE = "peel-tokens"
LINEAR = "aten.linear.default"


@dataclass(frozen=True)
class PeelTokens(Pass):
    """Linears whose input has the same first token on all calibration data compute it no more.

    MixDQ (T. Zhao et al., 2024, arXiv 2405.17873): the first token of a text, or a class token, is
    a constant whose outliers spoil the scales of all others. Its outputs are computed here, in
    float, and put in front of those of the other tokens, which alone are rounded later. What is the
    same on the calibration data is taken for a constant.

    Attributes:
        tolerance: How far elements of the first token may differ, as a share of its largest one.
    """

    name: ClassVar[str] = RULE
    tolerance: float = 1e-6

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Peel the first token of `forward`'s linears that read `[batch, tokens, features]`."""
        check_patterns(ctx, layer_names(program))
        refusals, linears = [], []
        for node in program.forward.graph.nodes:
            if op_name(node) != LINEAR:
                continue
            reason = _reason(node, ctx)
            if reason:
                refusals.append(Refusal(RULE, label(node), reason))
            else:
                linears.append(node)
        tokens: dict[fx.Node, Tensor] = {}

        def look(node: fx.Node, inputs: Inputs) -> None:
            first = torch.cat([batch[:, 0] for batch in inputs.now])
            apart = float((first - first[0]).abs().max())
            if apart <= self.tolerance * float(first[0].abs().max()):
                tokens[node] = first[0]

        observe(program, ctx, linears, RULE, look)
        editor, notes = Editor(program, FORWARD, RULE), dict[str, Any]()
        for node in linears:
            if node in tokens:
                notes[label(node)] = {"largest": round(float(tokens[node].abs().max()), 6)}
                _peel(editor, node, tokens[node])
            else:
                refusals.append(Refusal(RULE, label(node), "its first token is no constant"))
        editor.remove_dead()
        return Outcome(editor.finish(), {"peeled": notes}, tuple(refusals))


def _reason(node: fx.Node, ctx: PassContext) -> str | None:
    """Why a linear cannot be split by tokens."""
    if ctx.is_excluded(label(node)):
        return "excluded by the user"
    value, weight = value_of(node.args[0]), node.args[1]
    if value.dim() != 3:
        return "it does not read [batch, tokens, features]"
    if value.shape[1] == 1:
        return "there is one token"
    return None if weight.op == "get_attr" else "its weight is computed"


def _peel(editor: Editor, node: fx.Node, token: Tensor) -> None:
    """Put the output of the token in front of what the linear computes of the others."""
    aten, source = torch.ops.aten, node.args[0]
    weight = attribute(editor.module, str(node.args[1].target))
    bias = bias_of(node, editor.module)
    row = weight.double() @ token.double()
    row = (row if bias is None else row + bias.double()).float()
    users = list(node.users)
    rest = editor.call(node, aten.slice.Tensor, source, 1, 1, 2**63 - 1, before=node)
    editor.set_argument(node, 0, rest)
    editor.refresh(node)
    constant = editor.weight(f"{node.args[1].target}_token", row.reshape(1, 1, -1), like=node)
    first = editor.call(node, aten.slice.Tensor, node, 1, 0, 1)
    zero = editor.call(node, aten.mul.Tensor, first, 0.0, before=first.next)
    made = editor.call(node, aten.add.Tensor, zero, constant, before=zero.next)
    joined = editor.call(node, aten.cat.default, [made, node], 1, before=made.next)
    for user in users:
        user.replace_input_with(node, joined)
        editor.edits += 1
