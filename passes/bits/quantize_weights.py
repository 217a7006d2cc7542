"""The pass `quantize-weights`: linear layers with low-bit weights, visible as dequantize nodes."""

import operator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import ModelError, Refusal, UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.provenance import label
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.grouped import Format, Grouped, Job, Rounding, nearest
from effc.passes.bits.layers import KINDS, LATER, Layer, layer_names, weight_reason
from effc.passes.bits.ternary import ternary
from effc.passes.bits.weights import TensorKey, WeightObserver, tensor_key

RULE = "quantize-weights"
LIMIT = 127
MULTIPLE = 32
WORDS: dict[str, dict[str, Any]] = {
    "symmetric": {"true": True, "false": False},
    "scheme": {"int": "int", "ternary": "ternary"},
}
ROUNDINGS: dict[str, Rounding] = {"nearest": nearest}


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Linear layers with weights of 2 to 8 bits, or of two ternary planes; needs no data.

    Neighbouring input features share a scale (bfloat16) and, if not symmetric, a zero point. The
    result runs in PyTorch: a `dequantize_grouped` node feeds the layer, and lowering turns both
    into a kernel that unpacks codes in registers.

    Attributes:
        bits: Width of a code, 2 to 8; a ternary plane always takes 2.
        group: Input features that share a scale, a multiple of 32; 0 for a whole row.
        symmetric: Whether 0.0 has the middle code in every group; else each has a zero point.
        scheme: `int`, or two planes of codes in {-1, 0, 1} (PTQTP).
        rounding: How codes of `int` are chosen.
        weight_observer: How the range of a group is chosen.
        activations: `int8` rounds them per token around zero, with a scale found at run time: at 8
            bits their error is far below that of weights in 4, and sums of integers take a
            quarter of the time; `float32` leaves them alone.
    """

    name: ClassVar[str] = RULE
    layer_options: ClassVar[tuple[str, ...]] = ("bits", "group", "symmetric", "scheme")
    bits: int = 4
    group: int = 32
    symmetric: bool = True
    scheme: Literal["int", "ternary"] = "int"
    rounding: Literal["nearest"] = "nearest"
    weight_observer: WeightObserver = "mse"
    activations: Literal["int8", "float32"] = "int8"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Quantize every method."""
        check_patterns(ctx, layer_names(program))
        default = Format(self.scheme, self.bits, self.group, self.symmetric, self.weight_observer)
        checked(default, f"pass {RULE}")
        refusals: list[Refusal] = []
        notes: dict[str, dict[str, Any]] = {}
        is_changed = False
        for method in program.methods:
            editor = Editor(program, method, RULE)
            writer = _Writer(editor, ctx, ROUNDINGS[self.rounding], self.activations == "int8")
            for node in list(editor.graph.nodes):
                if op_name(node) not in {*KINDS, *LATER}:
                    continue
                form = form_of(label(node), ctx, default)
                reason = _reason(node, ctx, form, editor.module)
                if reason or form is None:
                    refusals.append(Refusal(RULE, label(node), reason or ""))
                    continue
                writer.write(Layer(node, label(node), "linear"), form, notes)
            editor.remove_dead()
            is_changed |= editor.finish()
        return Outcome(is_changed, {"layers": notes}, tuple(refusals))


def checked(form: Format, where: str) -> Format:
    """The same format.

    Raises:
        UsageError: If there are no such codes or groups.
    """
    if not 2 <= form.bits <= 8:
        raise UsageError(f"{where}: bits={form.bits}; there are 2 to 8")
    if form.group < 0 or form.group % MULTIPLE:
        raise UsageError(f"{where}: group={form.group} is no multiple of {MULTIPLE}; 0 is a row")
    return form


def form_of(name: str, ctx: PassContext, default: Format) -> Format | None:
    """The format the user's rules give a layer; None leaves it in float.

    Raises:
        UsageError: If a rule asks for what there is none of.
    """
    rules = {key: value for key, value in ctx.options_for(name).items() if hasattr(default, key)}
    if rules.get("bits") in ("none", "float"):
        return None
    where, values = f"layer {name}", dict[str, Any]()
    for key, text in rules.items():
        allowed = WORDS.get(key)
        if allowed is None and text.isdigit():
            values[key] = int(text)
        elif allowed is not None and text in allowed:
            values[key] = allowed[text]
        else:
            raise UsageError(f"{where}: {RULE} has no {key}={text}")
    return checked(replace(default, **values), where)


def _reason(node: fx.Node, ctx: PassContext, form: Format | None, module: fx.GraphModule) -> str:
    """Why a layer stays as it is; empty if it does not."""
    name = label(node)
    if name in ctx.kept:
        return "kept in float for the quality budget"
    if ctx.is_excluded(name):
        return "excluded by the user"
    if form is None:
        return "a rule keeps it in float"
    if op_name(node) != "aten.linear.default":
        return "low-bit weights are for linear layers"
    return weight_reason(Layer(node, name, "linear")) or _shared(node, module)


def _shared(node: fx.Node, module: fx.GraphModule) -> str:
    """Why a weight that others read in float cannot be stored twice."""
    key = tensor_key(attribute(module, str(node.args[1].target)))
    for weight in module.graph.find_nodes(op="get_attr"):
        if tensor_key(attribute(module, weight.target)) != key:
            continue
        for user in weight.users:
            if op_name(user) != "aten.linear.default":
                return f"its weight is also read by {label(user)}: a second copy saves nothing"
    return ""


@dataclass
class _Writer:
    """Replaces the weights of one method's layers; tied weights and shared inputs once."""

    editor: Editor
    ctx: PassContext
    rounding: Rounding
    rounds_activations: bool
    _packed: dict[tuple[TensorKey, Format], tuple[Grouped, float]] = field(default_factory=dict)
    _nodes: dict[tuple[TensorKey, Format], list[fx.Node | None]] = field(default_factory=dict)
    _codes: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def write(self, layer: Layer, form: Format, notes: dict[str, dict[str, Any]]) -> None:
        """Let a layer read a dequantized weight, and note what was done."""
        tensor = attribute(self.editor.module, str(layer.weight.target))
        if not bool(torch.isfinite(tensor).all()):
            where = f"weight {layer.weight.target} of {layer.name}"
            raise ModelError(f"{where} holds NaN or infinite values; it cannot be quantized")
        found, decibel = self._grouped(layer, tensor, form)
        operands = self._operands(layer, found, form)
        dequantize, node = torch.ops.effc.dequantize_grouped.default, layer.node
        settings = (found.bits, found.group, found.features)
        weight = self.editor.call(node, dequantize, *operands, *settings, before=node)
        value = layer.value
        self.editor.set_argument(node, 1, weight)
        if self.rounds_activations:
            self.editor.set_argument(node, 0, self._rounded(value))
        name, number = layer.name, 1
        while name in notes:
            number += 1
            name = f"{layer.name}#{number}"
        notes[name] = {
            "weight": str(form),
            "weight_sqnr_db": round(decibel, 2) if abs(decibel) < float("inf") else None,
            "weight_nbytes": found.nbytes,
            "activation": "dynamic int8 per token" if self.rounds_activations else "float32",
        }

    def _grouped(self, layer: Layer, tensor: torch.Tensor, form: Format) -> tuple[Grouped, float]:
        key = tensor_key(tensor), form
        if key not in self._packed:
            rounding = ternary if form.scheme == "ternary" else self.rounding
            found = rounding(Job(tensor.detach(), form, layer, self.ctx))
            self._packed[key] = found, found.sqnr_db(tensor)
        return self._packed[key]

    def _operands(self, layer: Layer, found: Grouped, form: Format) -> list[fx.Node | None]:
        """Nodes that read codes, scales and zero points, named after the weight."""
        path, like = str(layer.weight.target), layer.weight
        key = tensor_key(attribute(self.editor.module, path)), form
        if key not in self._nodes:
            parts = {"codes": found.codes, "scale": found.scale, "zero_point": found.zero_point}
            self._nodes[key] = [
                None if part is None else self.editor.weight(f"{path}_{name}", part, like=like)
                for name, part in parts.items()
            ]
        return self._nodes[key]

    def _rounded(self, value: fx.Node) -> fx.Node:
        """A value as what its int8 codes stand for."""
        if value not in self._codes:
            effc, place = torch.ops.effc, value.next
            while place.op in ("placeholder", "get_attr"):
                place = place.next
            settings = (value, [-1], LIMIT, torch.int8)
            parts = self.editor.call(
                value, effc.quantize_symmetric.default, *settings, before=place
            )
            codes, scale = (
                self.editor.call(value, operator.getitem, parts, i, before=place) for i in range(2)
            )
            restored = effc.dequantize.default
            self._codes[value] = self.editor.call(value, restored, codes, scale, None, before=place)
        return self._codes[value]
