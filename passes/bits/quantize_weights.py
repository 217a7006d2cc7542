"""The pass `quantize-weights`: linear layers with low-bit weights, visible as dequantize nodes."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.errors import ModelError, Refusal, UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute
from effc.ir.provenance import label
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.grouped import SCHEMES, WHOLE, Format, Job, Scheme, Search
from effc.passes.bits.layers import KINDS, LATER, Layer, layer_names, weight_reason
from effc.passes.bits.rounding.gptq import DAMPING
from effc.passes.bits.rounding.methods import METHODS, NEEDS_DATA, Method, rounded_by
from effc.passes.bits.rounding.walk import Inputs, Walk
from effc.passes.bits.weight_writer import Activations, Packed, Writer, Written, bias_of
from effc.passes.bits.weights import WeightObserver, is_finite, tensor_key

RULE = "quantize-weights"
ROUNDINGS = METHODS
MULTIPLE = 32
WORDS: dict[str, dict[str, Any]] = {
    "symmetric": {"true": True, "false": False},
    "scheme": {name: name for name in ("int", "ternary", *SCHEMES)},
}


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Linear layers with weights of 2 to 8 bits, of small floats, or of two ternary planes.

    Neighbouring input features share a scale and, if not symmetric, a zero point. The result runs
    in PyTorch: a `dequantize_grouped` node feeds the layer, and lowering turns both into a kernel
    that unpacks codes in registers.

    Attributes:
        bits: Width of a code of `int`, 2 to 8.
        group: Input features that share a scale, a multiple of 32; 0 for a whole row, -1 for the
            whole weight. `mxfp4` and `mxfp8` have 32, `nvfp4` 16.
        symmetric: Whether 0.0 has the middle code in every group; else each has a zero point.
        scheme: `int`; two planes of codes in {-1, 0, 1} (PTQTP); float8 (`e4m3`, `e5m2`), NF4,
            and the microscaling forms `mxfp4`, `mxfp8` (E4M3) and `nvfp4`, which processors without
            such instructions look up in a table.
        rounding: How codes are chosen: to the nearest, by HQQ (asymmetric `int` only), or by GPTQ,
            which needs calibration data.
        weight_observer: How the range of a group is chosen.
        act_order: For `gptq`: whether columns of large inputs go first.
        damping: For `gptq`: share of the mean diagonal of the second moments added to it.
        compensation: For `gptq`: share of the change of the weight that best makes up for what the
            layers rounded before it did to its input (QEP).
        correct_bias: Whether biases take up what rounding does to the mean output of each channel
            on calibration data (M. Nagel et al., 2019, arXiv 1906.04721).
        sequential: For `gptq`: whether layers are rounded for what the rounded layers before them
            compute, or for what the model in float computes.
        activations: `int8` rounds them per token around zero, with a scale found at run time: at 8
            bits their error is far below that of weights in 4, and sums of integers take a
            quarter of the time; `float32` leaves them alone; `auto` is `int8` for integer codes.
            `int16`, `float8` (E4M3) per token and `bfloat16` round them, too, but products are
            those of float32: they show what such processors would compute.
    """

    name: ClassVar[str] = RULE
    layer_options: ClassVar[tuple[str, ...]] = ("bits", "group", "symmetric", "scheme")
    bits: int = 4
    group: int = 32
    symmetric: bool = True
    scheme: Scheme = "int"
    rounding: Method = "nearest"
    weight_observer: WeightObserver = "mse"
    act_order: bool = True
    damping: float = DAMPING
    compensation: float = 0.5
    correct_bias: bool = False
    sequential: bool = True
    activations: Activations = "auto"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Quantize every method."""
        check_patterns(ctx, layer_names(program))
        default = self._default()
        refusals: list[Refusal] = []
        notes: dict[str, dict[str, Any]] = {}
        is_changed, packed = False, self._with_data(program, ctx, default)
        for method in program.methods:
            editor = Editor(program, method, RULE)
            writer = Writer(editor, partial(self.rounded, ctx=ctx), self.activations, packed)
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

    def rounded(
        self, layer: Layer, weight: torch.Tensor, form: Format, ctx: PassContext,
        inputs: Inputs | None = None,
    ) -> Written:  # fmt: skip
        """A weight in codes.

        Raises:
            ModelError: If it holds NaN or infinite values.
        """
        if not is_finite(weight):
            where = f"weight {layer.weight.target} of {layer.name}"
            raise ModelError(f"{where} holds NaN or infinite values; it cannot be quantized")
        search = Search(self.act_order, self.damping, self.compensation)
        job = Job(weight.detach(), form, layer, ctx, inputs, search)
        found = rounded_by(self.rounding, job)
        shift = None
        if self.correct_bias and inputs is not None:
            exact, now = inputs.means()
            lost = (
                weight.detach().double().numpy() @ exact - found.restored().double().numpy() @ now
            )
            shift = torch.from_numpy(lost).float()
        return Written(found, found.sqnr_db(weight), shift)

    def _default(self) -> Format:
        """The format of layers without a rule.

        Raises:
            UsageError: If options do not go together.
        """
        form = Format(self.scheme, self.bits, self.group, self.symmetric, self.weight_observer)
        form = checked(form, f"pass {RULE}")
        if self.rounding == "hqq" and (form.symmetric or form.scheme != "int"):
            raise UsageError(f"pass {RULE}: rounding=hqq finds zero points; add symmetric=false")
        if self.rounding != "nearest" and form.group == WHOLE:
            raise UsageError(f"pass {RULE}: group={WHOLE} goes with rounding=nearest")
        return form

    def _with_data(self, program: Program, ctx: PassContext, default: Format) -> Packed:
        """What is rounded by looking at data, layer after layer.

        Raises:
            UsageError: If there is no data.
        """
        packed: Packed = {}
        if self.rounding not in NEEDS_DATA and not self.correct_bias:
            return packed
        if ctx.calibration is None:
            what = f"rounding={self.rounding}" if self.rounding in NEEDS_DATA else "correct_bias"
            raise UsageError(f"pass {RULE}: {what} needs data; give --calib")
        module, wanted = program.forward, dict[fx.Node, Any]()
        for node in module.graph.nodes:
            form = form_of(label(node), ctx, default) if op_name(node) in KINDS else None
            if form is not None and not _reason(node, ctx, form, module):
                wanted[node] = partial(self._reached, program, ctx, form, node, packed)
        is_paired = not self.sequential or self.compensation > 0 or self.correct_bias
        walk = Walk(program, ctx.calibration, is_paired)
        walk.run(wanted)
        return packed

    def _reached(
        self, program: Program, ctx: PassContext, form: Format, node: fx.Node, packed: Packed,
        inputs: Inputs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
        """Round the weight of a layer the walk has reached; tied weights once."""
        weight = attribute(program.forward, str(node.args[1].target))
        key = tensor_key(weight), form
        if key not in packed:
            seen = inputs if self.sequential else inputs.in_float()
            packed[key] = self.rounded(Layer(node, label(node), "linear"), weight, form, ctx, seen)
        written = packed[key]
        bias = bias_of(node, program.forward)
        if written.shift is not None:
            bias = written.shift if bias is None else bias + written.shift
        return written.found.restored(), bias


def checked(form: Format, where: str) -> Format:
    """The same format.

    Raises:
        UsageError: If there are no such codes or groups.
    """
    if not 2 <= form.bits <= 8:
        raise UsageError(f"{where}: bits={form.bits}; there are 2 to 8")
    fixed = SCHEMES[form.scheme][2] if form.scheme in SCHEMES else None
    is_group = form.group >= WHOLE and (form.group < 1 or form.group % MULTIPLE == 0)
    if fixed is None and not is_group:
        raise UsageError(f"{where}: group={form.group} is no multiple of {MULTIPLE}; 0 is a row")
    return form if fixed is None else replace(form, group=fixed)


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
