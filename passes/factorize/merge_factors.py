"""The pass `merge-factors`: two linears in a row become one where one is no slower.

What feed-forwards of factors need for small batches (X. Wei et al., 2024, arXiv 2406.16450): with
few positions, the time of a kernel that has little to do outweighs what the factors save.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal, UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute, value_of
from effc.ir.provenance import label
from effc.passes.base import Outcome, Pass, PassContext

LINEAR = "aten.linear.default"


@dataclass(frozen=True)
class MergeFactors(Pass):
    """Multiplies the weights of linears that only feed another linear into that one.

    Attributes:
        above: Pairs stay whose weights have less than this share of the parameters of the product;
            1 merges what gets smaller, 0 everything.
    """

    name: ClassVar[str] = "merge-factors"
    above: float = 1.0

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Merge every pair.

        Raises:
            UsageError: If `above` is negative.
        """
        if self.above < 0:
            raise UsageError(f"merge-factors: above={self.above:g} is negative")
        merged: list[str] = []
        refusals, is_changed = [], False
        for method in program.methods:
            editor = Editor(program, method, self.name)
            for node in list(editor.graph.nodes):
                if not _is_pair(node):
                    continue
                if any(ctx.is_excluded(label(one)) for one in (node, node.args[0])):
                    continue
                share = _share(node)
                if share < self.above:
                    reason = "its factors are smaller than their product"
                    refusals.append(Refusal(self.name, label(node), reason))
                    continue
                _merge(editor, node)
                merged.append(label(node))
            editor.remove_dead()
            is_changed |= editor.finish()
        return Outcome(is_changed, {"merged": merged}, tuple(refusals))


def _is_pair(node: fx.Node) -> bool:
    """Whether a linear reads nothing but what a linear without other readers computes."""
    if op_name(node) != LINEAR or op_name(node.args[0]) != LINEAR:
        return False
    inner = node.args[0]
    operands = (*node.args[1:], *inner.args[1:])
    is_known = all(one is None or one.op == "get_attr" for one in operands)
    return is_known and len(inner.users) == 1


def _share(node: fx.Node) -> float:
    """Parameters of both weights over those of their product."""
    second, first = value_of(node.args[1]), value_of(node.args[0].args[1])
    return float(second.numel() + first.numel()) / float(second.shape[0] * first.shape[1])


def _merge(editor: Editor, node: fx.Node) -> None:
    inner, module = node.args[0], editor.module
    second, first = (
        attribute(module, str(one.args[1].target)).detach().double() for one in (node, inner)
    )
    bias = torch.zeros(len(second), dtype=torch.float64)
    nodes = [one.args[2] if len(one.args) > 2 else None for one in (node, inner)]
    if nodes[1] is not None:
        bias = bias + second @ attribute(module, str(nodes[1].target)).detach().double()
    if nodes[0] is not None:
        bias = bias + attribute(module, str(nodes[0].target)).detach().double()
    path, dtype = str(node.args[1].target), attribute(module, str(node.args[1].target)).dtype
    weight = editor.weight(f"{path}_merged", (second @ first).to(dtype), node)
    added = editor.weight(f"{path}_bias", bias.to(dtype), node) if any(nodes) else None
    target = torch.ops.aten.linear.default
    editor.replace(node, editor.call(node, target, inner.args[0], weight, added, before=node))
