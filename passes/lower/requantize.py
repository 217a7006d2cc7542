"""From a product's integer sums to the next layer's codes in one rounding."""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute

effc = torch.ops.effc
QUANTIZE, FUSED = "effc.quantize.default", "effc.fused_multiply_add.default"
RELU, LIMITED = "aten.relu.default", ("aten.hardtanh.default", "aten.clamp.default")
Limits: TypeAlias = tuple[float | None, float | None]


@dataclass(frozen=True)
class Chain:
    """What lies between a product and its codes.

    Attributes:
        fused: The multiply-add whose value is quantized.
        limits: Smallest and largest value an activation between them lets through.
    """

    fused: fx.Node
    limits: Limits


class Requantize:
    """quantize(limit(x * m + a), s, z) is x * (m / s) + (a / s + z), limited and rounded once.

    The folded factors are rounded to float32, so a value half-way between two codes may get the
    other one; everything else is the same.
    """

    name = "requantize"

    def match(self, node: fx.Node) -> bool:
        """Whether the chain ends in this node."""
        return chain_of(node) is not None

    def check(self, node: fx.Node, program: Program) -> str | None:
        """A chain that matches can always be folded."""
        return None

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """Fold scale, zero point and limits."""
        found = chain_of(node)
        if found is None:
            return
        scale, zero_point = scalars(editor.module, node)
        qmin, qmax, dtype = node.args[3:6]
        low, high = found.limits
        low = qmin if low is None else max(qmin, _code(low, scale, zero_point))
        high = qmax if high is None else min(qmax, _code(high, scale, zero_point))
        fold = Folding(editor, node, scale)
        x, multiplier, addend = fold(found.fused, zero_point)
        codes = editor.call(
            node, effc.requantize.default, x, multiplier, addend, low, high, dtype, before=node
        )
        editor.replace(node, codes)


def chain_of(node: fx.Node) -> Chain | None:
    """The multiply-add behind a static quantization, if only limits are between them."""
    if op_name(node) != QUANTIZE or not all(map(is_scalar_weight, node.args[1:3])):
        return None
    value: fx.Node = node.args[0]
    limits: Limits = (None, None)
    found = limits_of(value)
    if found is not None and len(value.users) == 1:
        value, limits = value.args[0], found
    return Chain(value, limits) if is_single_fused(value) else None


def is_single_fused(node: object) -> bool:
    """Whether something is a multiply-add by a weight that has one reader."""
    if not isinstance(node, fx.Node) or op_name(node) != FUSED or len(node.users) != 1:
        return False
    return bool(node.args[1].op == "get_attr")


def limits_of(node: fx.Node) -> Limits | None:
    """The bounds of an activation that only limits its operand; None for anything else."""
    if not isinstance(node, fx.Node) or node.op != "call_function" or node.kwargs:
        return None
    if op_name(node) == RELU:
        return 0.0, None
    if op_name(node) not in LIMITED:
        return None
    bounds = [-1.0, 1.0] if op_name(node) == LIMITED[0] else [None, None]
    for position, bound in enumerate(node.args[1:]):
        bounds[position] = bound
    is_constant = all(bound is None or isinstance(bound, int | float) for bound in bounds)
    return (bounds[0], bounds[1]) if is_constant else None


def is_scalar_weight(node: object) -> bool:
    """Whether something is a weight of one number."""
    return isinstance(node, fx.Node) and node.op == "get_attr" and node.meta["val"].dim() == 0


def scalars(module: fx.GraphModule, node: fx.Node) -> tuple[torch.Tensor, int]:
    """Scale and zero point of a static quantization."""
    scale, zero_point = (attribute(module, str(weight.target)) for weight in node.args[1:3])
    return scale, int(zero_point)


def _code(value: float, scale: torch.Tensor, zero_point: int) -> int:
    """The code of a bound, as `quantize` would give it without its own limits."""
    return int(torch.round(torch.tensor(value) * torch.reciprocal(scale))) + zero_point


@dataclass(frozen=True)
class Folding:
    """Divides multiply-adds by a scale."""

    editor: Editor
    node: fx.Node
    scale: torch.Tensor

    def __call__(self, fused: fx.Node, shift: int) -> tuple[fx.Node, fx.Node, fx.Node]:
        """Operands of `fused / scale + shift`."""
        x, multiplier, addend = fused.args
        return x, self._weight(multiplier, 0), self._addend(addend, shift)

    def _addend(self, addend: fx.Node, shift: int) -> fx.Node:
        """`addend / scale + shift`: a weight, a folded multiply-add, or one more of them."""
        if addend.op == "get_attr":
            return self._weight(addend, shift)
        target, is_fused = effc.fused_multiply_add.default, op_name(addend) == FUSED
        if is_fused and len(addend.users) == 1 and addend.args[1].op == "get_attr":
            operands = self(addend, shift)
        else:
            inverse, zero = torch.reciprocal(self.scale), torch.tensor(float(shift))
            weights = [
                self.editor.weight(f"{self.node.name}_{name}", value, self.node)
                for name, value in (("inverse", inverse), ("shift", zero))
            ]
            operands = (addend, weights[0], weights[1])
        return self.editor.call(self.node, target, *operands, before=self.node)

    def _weight(self, weight: fx.Node, shift: int) -> fx.Node:
        value = attribute(self.editor.module, str(weight.target)).double()
        folded = (value / self.scale.double() + shift).float()
        return self.editor.weight(f"{weight.target}_requantized", folded, self.node)
