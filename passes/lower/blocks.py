"""Products with weights that hold blocks of zeros become products that pass over them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal
from effc.ir.ops.blocks import DEPTHS
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.provenance import label
from effc.ir.target import Target
from effc.passes.base import Outcome, Pass, PassContext

effc = torch.ops.effc
PRODUCTS = {
    "aten.linear.default": effc.linear_blocks.default,
    "effc.linear_half.default": effc.linear_blocks_half.default,
    "effc.linear_integer.default": effc.linear_blocks_integer.default,
}
DENSEST = {torch.float32: 0.8, torch.bfloat16: 0.5, torch.int8: 0.7}  # measured on Zen 4
FLOAT_BITS, LANES = 32, 16
LEAST_ZEROS = 0.08  # a weight with fewer has none on purpose


@dataclass(frozen=True)
class LowerBlocks(Pass):
    """Replace linears whose weight has enough blocks of zeros.

    A block is a vector of outputs by the features of one multiply-add step: on AVX-512 16 by 1 in
    float32, 16 by 2 in bfloat16, 16 by 4 in int8.

    Attributes:
        densest: The largest share of blocks that are not all zeros with which it pays; None for
            the densest that `docs/sparsity.md` has faster than dense at 128 rows and at one: 0.8 in
            float32, 0.5 in bfloat16, 0.7 in int8.
    """

    name: ClassVar[str] = "lower-blocks"
    densest: float | None = None

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Look at every linear."""
        densities: dict[str, float] = {}
        refusals, is_changed = [], False
        for method in program.methods:
            editor = Editor(program, method, self.name)
            for node in list(editor.graph.nodes):
                if op_name(node) not in PRODUCTS or not _is_free(node):
                    continue
                weight = attribute(editor.module, str(node.args[1].target))
                found = density(weight, ctx.target)
                if found is None:
                    continue
                most = DENSEST[weight.dtype] if self.densest is None else self.densest
                if found > most:
                    reason = "too few blocks of its weight are all zeros: dense is faster"
                    refusals.append(Refusal(self.name, label(node), reason))
                    continue
                zero = node.args[2:3] if "integer" in op_name(node) else ()
                target = PRODUCTS[op_name(node)]
                new = editor.call(node, target, *node.args[:2], *zero, before=node)
                editor.replace(node, new)
                densities[label(node)] = found
            is_changed |= editor.finish()
        return Outcome(is_changed, {"densities": densities}, tuple(refusals))


def _is_free(node: fx.Node) -> bool:
    """Whether the weight is a constant, and nothing but the product is left in the node."""
    weight = node.args[1]
    is_known = isinstance(weight, fx.Node) and weight.op == "get_attr"
    has_bias = "integer" not in op_name(node) and len(node.args) > 2 and node.args[2] is not None
    return is_known and not has_bias


def lanes_of(target: Target | None) -> int:
    """Outputs of a block: floats in a vector register."""
    return LANES if target is None else max(1, target.vector_bits // FLOAT_BITS)


def density(weight: torch.Tensor, target: Target | None) -> float | None:
    """The share of blocks of a weight [out, in] that are not all zeros.

    None where its elements are mostly not zero, or its blocks have no kernel.
    """
    depth = DEPTHS.get(weight.dtype)
    if depth is None or weight.dim() < 2:
        return None
    columns, features = weight.shape
    if weight.dtype == torch.bfloat16 and features % depth:
        return None
    is_held = weight != 0
    if int(is_held.sum()) > (1 - LEAST_ZEROS) * weight.numel():
        return None
    lanes = lanes_of(target)
    padded = torch.nn.functional.pad(is_held, (0, -features % depth, 0, -columns % lanes))
    blocks = padded.reshape(padded.shape[0] // lanes, lanes, -1, depth)
    return float(blocks.any(3).any(1).double().mean())
