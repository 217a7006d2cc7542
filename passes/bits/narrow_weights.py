"""The pass `narrow-weights`: lower widths of 8-bit weights by rounding their codes once more."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from effc.ir.edit import Editor
from effc.ir.encoding import pack_codes, unpack_codes
from effc.ir.errors import Refusal, UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.provenance import label
from effc.passes.base import Outcome, Pass, PassContext

RULE = "narrow-weights"
GROUPED = "effc.dequantize_grouped.default"
WIDE = 8


@dataclass(frozen=True)
class NarrowWeights(Pass):
    """Weights in 8-bit codes become weights of fewer bits, from the codes alone.

    Double Rounding (Huang et al., 2024, arXiv 2402.02866): a code of b bits is the 8-bit one over
    2^(8 - b), rounded and clipped, and the scale is 2^(8 - b) times as large, so that one stored
    weight serves every width. The paper trains the weights for it; here they are as they are.
    Halves are rounded up.

    Attributes:
        bits: Width of the new codes, 2 to 8; 8 changes nothing.
    """

    name: ClassVar[str] = RULE
    bits: int = 4

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Narrow every method's weights."""
        if not 2 <= self.bits <= WIDE:
            raise UsageError(f"pass {RULE}: bits={self.bits}; there are 2 to {WIDE}")
        refusals: list[Refusal] = []
        layers: dict[str, dict[str, Any]] = {}
        is_changed = False
        for method in program.methods if self.bits < WIDE else ():
            editor = Editor(program, method, RULE)
            made: dict[fx.Node, fx.Node] = {}
            for node in list(editor.graph.nodes):
                if op_name(node) != GROUPED:
                    continue
                name = label(node)
                if reason := _reason(node, ctx):
                    refusals.append(Refusal(RULE, name, reason))
                    continue
                _narrow(editor, node, self.bits, made)
                layers[name] = {"weight": f"int{self.bits}, from the codes of int{WIDE}"}
            editor.remove_dead()
            is_changed |= editor.finish()
        return Outcome(is_changed, {"layers": layers}, tuple(refusals))


def narrowed(codes: Tensor, bits: int) -> Tensor:
    """Codes around the middle of their range as narrower ones: `floor((c + h) / 2h)`, clipped.

    Args:
        codes: uint8, 8-bit codes whose 0.0 is 128.
        bits: Width of the new ones, at most 8; their 0.0 is `2**(bits - 1)`.
    """
    step = 1 << (WIDE - bits)
    centred = codes.to(torch.int16) - (1 << (WIDE - 1))
    rounded = torch.div(centred + step // 2, step, rounding_mode="floor")
    half = 1 << (bits - 1)
    return (rounded.clamp(-half, half - 1) + half).to(torch.uint8)


def _reason(node: fx.Node, ctx: PassContext) -> str:
    """Why a weight stays as it is; empty if it does not."""
    if ctx.is_excluded(label(node)):
        return "excluded by the user"
    operands = [one for one in node.args[:3] if one is not None]
    if node.args[3] != WIDE:
        return f"its codes have {node.args[3]} bits, not {WIDE}"
    if len(operands) > 2:
        return "its groups have zero points"
    if any(one is not None for one in node.args[6:]):
        return "its codes are looked up in a table"
    is_known = all(isinstance(one, fx.Node) and one.op == "get_attr" for one in operands)
    return "" if is_known else "its codes are no constants"


def _narrow(editor: Editor, node: fx.Node, bits: int, made: dict[fx.Node, fx.Node]) -> None:
    """Let the users of a weight read the narrower one; codes that several read are made once."""
    codes, scale, _, wide, group, features = node.args
    if codes not in made:
        stored = attribute(editor.module, str(codes.target))
        fewer = pack_codes(narrowed(unpack_codes(stored, wide, features), bits), bits)
        made[codes] = editor.weight(f"{codes.target}_{bits}", fewer, like=codes)
    if scale not in made:
        steps = attribute(editor.module, str(scale.target))
        larger = (steps.float() * (1 << (WIDE - bits))).to(steps.dtype)
        made[scale] = editor.weight(f"{scale.target}_{bits}", larger, like=scale)
    settings = (made[codes], made[scale], None, bits, group, features)
    weight = editor.call(node, torch.ops.effc.dequantize_grouped.default, *settings, before=node)
    editor.replace(node, weight)
