"""The pass `add-noise`: a fixed noise on activations that makes their rounding lose less."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from effc.ir.edit import Editor
from effc.ir.errors import Refusal
from effc.ir.opspec import op_name
from effc.ir.program import FORWARD, Program, attribute
from effc.ir.provenance import label
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.conditioning.observed import observe, rows_of
from effc.passes.bits.layers import layer_names
from effc.passes.bits.rounding.walk import Inputs
from effc.passes.bits.weight_writer import bias_of

RULE = "add-noise"
LINEAR = "aten.linear.default"
SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class AddNoise(Pass):
    """Adds a constant random vector to what linear layers read; their biases take it off again.

    Y. Liu et al., "NoisyQuant", 2022, arXiv 2211.16056: the noise is drawn once, uniform in
    [-n, n]; exact in float. It lowers the error of rounding where values crowd between two codes,
    as those of heavy-tailed activations on one static scale do. n is the multiple of the step with
    the least error of the layer's output on calibration data; a layer for which none is better than
    no noise is left alone.

    Attributes:
        bits: Of the static codes the activations will have.
    """

    name: ClassVar[str] = RULE
    bits: int = 8

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Add noise in `forward` where it helps."""
        check_patterns(ctx, layer_names(program))
        linears, refusals = [], []
        for node in program.forward.graph.nodes:
            if op_name(node) != LINEAR:
                continue
            reason = "excluded by the user" if ctx.is_excluded(label(node)) else None
            if not isinstance(node.args[1], fx.Node) or node.args[1].op != "get_attr":
                reason = "its weight is computed"
            if reason:
                refusals.append(Refusal(RULE, label(node), reason))
            else:
                linears.append(node)
        found: dict[fx.Node, tuple[Tensor, dict[str, Any]]] = {}

        def look(node: fx.Node, inputs: Inputs) -> None:
            weight = attribute(program.forward, str(node.args[1].target))
            drawn = ctx.rng(f"{RULE}/{label(node)}").uniform(-1, 1, weight.shape[1])
            chosen = self.chosen(rows_of(inputs), weight, torch.from_numpy(drawn).float())
            if chosen is not None:
                found[node] = chosen

        observe(program, ctx, linears, RULE, look)
        editor, notes = Editor(program, FORWARD, RULE), dict[str, Any]()
        for node in linears:
            if node not in found:
                refusals.append(Refusal(RULE, label(node), "no noise lowers its error"))
                continue
            noise, note = found[node]
            _write(editor, node, noise)
            notes[label(node)] = note
        editor.remove_dead()
        return Outcome(editor.finish(), {"noise": notes}, tuple(refusals))

    def chosen(
        self, rows: Tensor, weight: Tensor, drawn: Tensor
    ) -> tuple[Tensor, dict[str, Any]] | None:
        """The noise of least output error, or None where none is better than nothing."""
        step = float((rows.max() - rows.min()) / ((1 << self.bits) - 1))
        plain = self.error(rows, weight, torch.zeros_like(drawn))
        errors = [self.error(rows, weight, drawn * step * share) for share in SHARES]
        best = min(range(len(SHARES)), key=lambda at: errors[at])
        if not errors[best] < plain:
            return None
        note = {"largest": step * SHARES[best], "error_ratio": round(errors[best] / plain, 4)}
        return drawn * step * SHARES[best], note

    def error(self, rows: Tensor, weight: Tensor, noise: Tensor) -> float:
        """Squared error of the outputs with activations on one static scale."""
        noisy = rows + noise
        low, high = float(noisy.min().clamp(max=0)), float(noisy.max().clamp(min=0))
        scale = (high - low) / ((1 << self.bits) - 1) or 1.0
        zero = round(-low / scale)
        codes = (torch.round(noisy / scale) + zero).clamp(0, (1 << self.bits) - 1)
        change = (codes - zero) * scale - noisy
        return float((change @ weight.T).double().square().sum())


def _write(editor: Editor, node: fx.Node, noise: Tensor) -> None:
    """Let a linear read its input plus a constant, and its bias take the constant off."""
    module, source = editor.module, node.args[1]
    path = str(source.target)
    weight, old = attribute(module, path), bias_of(node, module)
    taken = -(weight.double() @ noise.double())
    bias = (taken if old is None else old.double() + taken).float()
    name = path.rpartition(".")[0]
    constant = editor.weight(f"{name}.noise".lstrip("."), noise, like=source)
    moved = editor.weight(f"{name}.bias_noise".lstrip("."), bias, like=source)
    add = torch.ops.aten.add.Tensor
    node.args = (editor.call(node, add, node.args[0], constant, before=node), source, moved)
