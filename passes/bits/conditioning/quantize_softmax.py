"""The pass `quantize-softmax`: attention weights in few bits, on a shifted logarithmic scale."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal, UsageError
from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program, value_of
from effc.ir.provenance import label
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.calibrate.batches import CalibrationData

RULE = "quantize-softmax"
ATTENTION = "aten.scaled_dot_product_attention.default"
SHIFTS = (0.001, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.1, 0.2, 0.5, 1.0)
SAMPLED, MAPS = 1 << 16, 4


@dataclass(frozen=True)
class QuantizeSoftmax(Pass):
    """Takes attention apart and rounds the outputs of its softmax by shift-uniform-log2.

    I&S-ViT (Y. Zhong et al., 2023, arXiv 2311.10126): `y = log2(x + eta)` gets uniform codes
    between its least and largest value, which are rounded to whole exponents, so that the value is
    `2^y - eta`; eta of a few candidates by the least squared error on calibration data. A product
    with such weights is a shift; here the products are those of float32, so this shows what a
    processor with shifts would compute.

    Attributes:
        bits: Of a code.
    """

    name: ClassVar[str] = RULE
    bits: int = 4

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Round every attention of `forward` that is taken apart."""
        if ctx.calibration is None:
            raise UsageError(f"pass {RULE} needs data; give --calib")
        if not 2 <= self.bits <= 8:
            raise UsageError(f"pass {RULE}: bits={self.bits}; there are 2 to 8")
        editor, refusals = Editor(program, FORWARD, RULE), []
        weights: dict[fx.Node, str] = {}
        for node in list(editor.graph.nodes):
            if op_name(node) != ATTENTION:
                continue
            reason = _reason(node, ctx)
            if reason:
                refusals.append(Refusal(RULE, label(node), reason))
            else:
                weights[_taken_apart(editor, node)] = label(node)
        editor.remove_dead()
        is_changed, notes = editor.finish(), dict[str, Any]()
        found = sampled(program, ctx, list(weights)) if weights else {}
        editor = Editor(program, FORWARD, RULE)
        for node, name in weights.items():
            scale = self.chosen(found[node])
            _write(editor, node, scale)
            notes[name] = {"bits": self.bits, "shift": scale.shift}
        is_changed |= editor.finish()
        return Outcome(is_changed, {"softmax": notes}, tuple(refusals))

    def chosen(self, values: Tensor) -> "ShiftedLog":
        """The scale of least squared error: float32 values from 0 to 1."""
        made = [self.scale(values, shift) for shift in SHIFTS]
        return min(made, key=lambda one: float((one(values) - values).square().sum()))

    def scale(self, values: Tensor, shift: float) -> "ShiftedLog":
        """The scale of a shift, from the least to the largest value."""
        low = math.log2(float(values.min()) + shift)
        high = math.log2(float(values.max()) + shift)
        step = (high - low) / ((1 << self.bits) - 1) or 1.0
        return ShiftedLog(shift, low, step, (1 << self.bits) - 1)


@dataclass(frozen=True)
class ShiftedLog:
    """Codes of `log2(x + shift)`.

    Attributes:
        shift: eta.
        low: What code 0 stands for.
        step: Between codes.
        most: The largest code.
    """

    shift: float
    low: float
    step: float
    most: int

    def __call__(self, values: Tensor) -> Tensor:
        """What the codes of values stand for."""
        codes = ((torch.log2(values + self.shift) - self.low) * (1 / self.step)).round()
        exponents = (codes.clamp(0, self.most) * self.step + self.low).round()
        return torch.exp2(exponents) - self.shift


def _reason(node: fx.Node, ctx: PassContext) -> str | None:
    if ctx.is_excluded(label(node)):
        return "excluded by the user"
    if any(bool(value) for value in (*node.args[4:6], node.kwargs.get("enable_gqa"))):
        return "causal and grouped attention, and dropout, stay whole"
    return None


def _taken_apart(editor: Editor, node: fx.Node) -> fx.Node:
    """Write attention as two products with a softmax between; gives the softmax."""
    aten, (query, key, value) = torch.ops.aten, node.args[:3]
    mask: Any = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    scale: Any = node.kwargs.get("scale") or 1 / math.sqrt(int(value_of(query).shape[-1]))

    def call(target: Any, *args: Any) -> fx.Node:
        return editor.call(node, target, *args, before=node)

    turned = call(aten.transpose.int, key, -2, -1)
    scores = call(aten.mul.Tensor, call(aten.matmul.default, query, turned), scale)
    if mask is not None:
        scores = call(aten.add.Tensor, scores, mask)
    weights = call(aten.softmax.int, scores, -1)
    mixed = call(aten.matmul.default, weights, value)
    if value_of(node).dim() == MAPS:  # views after it rely on heads being inner dimensions
        inner = call(aten.transpose.int, mixed, 1, 2)
        dense = editor.call(
            node, aten.clone.default, inner, before=node, memory_format=torch.contiguous_format
        )
        mixed = call(aten.transpose.int, dense, 1, 2)
    editor.replace(node, mixed)
    return weights


def sampled(program: Program, ctx: PassContext, nodes: list[fx.Node]) -> dict[fx.Node, Tensor]:
    """Values of nodes on calibration data, evenly spread, up to `SAMPLED` of each."""
    assert ctx.calibration is not None
    found: dict[fx.Node, list[Tensor]] = {node: [] for node in nodes}

    class Look(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n in found:
                found[n].append(value.flatten()[:: max(1, value.numel() // SAMPLED)])
            return value

    with torch.no_grad():
        for batch in CalibrationData(program, ctx.calibration):
            inputs = [batch[spec.name] for spec in program.signature.inputs]
            Look(program.forward).run(*inputs, enable_io_processing=False)
    joined = {node: torch.cat(parts) for node, parts in found.items()}
    return {node: one[:: max(1, len(one) // SAMPLED)] for node, one in joined.items()}


def _write(editor: Editor, node: fx.Node, scale: ShiftedLog) -> None:
    """Round what a softmax computes."""
    aten, users, last = torch.ops.aten, list(node.users), node
    steps: list[tuple[Any, ...]] = [
        (aten.add.Tensor, scale.shift), (aten.log2.default,), (aten.sub.Tensor, scale.low),
        (aten.mul.Tensor, 1 / scale.step), (aten.round.default,),
        (aten.clamp.default, 0, scale.most), (aten.mul.Tensor, scale.step),
        (aten.add.Tensor, scale.low), (aten.round.default,), (aten.exp2.default,),
        (aten.sub.Tensor, scale.shift),
    ]  # fmt: skip
    for target, *rest in steps:
        last = editor.call(node, target, last, *rest, before=last.next)
    for user in users:
        user.replace_input_with(node, last)
        editor.edits += 1
