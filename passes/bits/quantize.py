"""The pass `quantize`: integer kernels' codes, visible as quantize and dequantize nodes."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from effc.ir.edit import Editor
from effc.ir.errors import Refusal, UsageError
from effc.ir.program import Program
from effc.ir.rewrite import apply
from effc.passes.base import Outcome, Pass, PassContext, check_patterns
from effc.passes.bits.activation_plan import (
    ActivationMode,
    ActivationPlan,
    Choice,
    ResidualMode,
    plan_activations,
)
from effc.passes.bits.activations import insert_dynamic, insert_static
from effc.passes.bits.attention import Factors, Wish, candidates, quantize_attention
from effc.passes.bits.bfloat16 import attention_names, has_products, round_attention
from effc.passes.bits.layers import RULE, Layer, Selection, Wanted, layer_names, select
from effc.passes.bits.notes import describe
from effc.passes.bits.weights import WIDE, WeightObserver, WeightPacker
from effc.passes.calibrate.observers import ObserverName, observer
from effc.passes.clean.one_row import ONE_ROW


@dataclass(frozen=True)
class Quantize(Pass):
    """Linear layers, convolutions and embedding tables in 8 bits.

    Weights become int8 codes, symmetric, with a scale per output channel; activations uint8 codes
    with scale and zero point, static (from calibration data) or dynamic (found at run time, per
    token or per image); embedding tables int8 rows with a scale each. Everything else stays float.
    The result runs in PyTorch: `dequantize` nodes feed the layers, and lowering turns those into
    integer kernels.

    Attributes:
        scheme: Bits of codes in products.
        bits: Width of the codes of weights, 2 to 8; those of fewer than 8 are stored packed, and
            multiplied as those of 8.
        activations: `auto` takes static scales where the predicted signal-to-noise ratio is at
            least `static_db` (for feature maps 12 dB less), else dynamic ones; without calibration
            data all are dynamic.
        observer: How the range of a static activation is chosen; `auto` is `mse` for feature maps
            and `minmax` for other values, whose rare large elements sit in few channels.
        percentile: Percent of the values inside the range, for `observer=percentile`.
        static_db: See `activations`.
        weight_observer: How the range of a weight channel is chosen; `auto` is `mse` below 8 bits,
            else `minmax`.
        embeddings: Whether tables are quantized, too.
        residual: Whether residual additions and gates of feature maps (squeeze-and-excitation) read
            codes (`int8`), read floats, or read codes where that is accurate enough (`auto`).
        skip_first: Leave the first linear or convolution in float.
        skip_last: Leave the last one in float.
        attention: What softmax attention multiplies. `auto` is codes where the target has their
            dot product and static scales promise `static_db` for the weights (the error of a
            score is the relative error of its weight) and the values; else
            bfloat16 where the target has products of it, else float32.
    """

    name: ClassVar[str] = "quantize"
    layer_options: ClassVar[tuple[str, ...]] = ("bits",)
    scheme: Literal["w8a8"] = "w8a8"
    bits: int = 8
    activations: ActivationMode = "auto"
    observer: ObserverName | Literal["auto"] = "auto"
    percentile: float = 99.99
    static_db: float = 32.0
    weight_observer: WeightObserver | Literal["auto"] = "auto"
    embeddings: bool = True
    residual: ResidualMode = "auto"
    skip_first: bool = False
    skip_last: bool = False
    attention: Literal["auto", "float32", "bfloat16", "int8"] = "auto"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Quantize every method."""
        if not 2 <= self.bits <= WIDE:
            raise UsageError(f"pass quantize: bits={self.bits}; there are 2 to {WIDE}")
        is_changed = apply(program, ONE_ROW).changed
        check_patterns(ctx, [*layer_names(program), *attention_names(program)])
        wanted = Wanted(self.embeddings, self.skip_first, self.skip_last, self.bits)
        packer = WeightPacker(self.weight_observer)
        refusals: list[Refusal] = []
        layers: dict[str, dict[str, Any]] = {}
        for method in program.methods:
            selection = select(program, method, ctx, wanted)
            refusals += selection.refusals
            choice, attention = self._choice(), self._attention(program, method, ctx)
            also = [factor for factors in attention.values() for factor in factors]
            plan = plan_activations(program, method, selection.products, ctx, choice, also)
            editor = Editor(program, method, RULE)
            describe(editor.module, selection, plan, packer, self.activations, layers)
            _write(editor, selection, plan, packer)
            if plan.statistics is not None:
                wish = Wish(self.attention, choice.least_db, choice.row_observer)
                layers.update(quantize_attention(editor, attention, plan.statistics, wish))
            is_changed |= editor.finish()
            is_changed |= self._round_attention(program, method, ctx, layers)
        return Outcome(is_changed, {"layers": layers}, tuple(refusals))

    def _attention(self, program: Program, method: str, ctx: PassContext) -> Factors:
        """The attention that may multiply codes."""
        if self.activations == "dynamic" and self.attention == "auto":
            return {}
        return candidates(program, method, ctx, self.attention)

    def _round_attention(
        self, program: Program, method: str, ctx: PassContext, layers: dict[str, dict[str, Any]]
    ) -> bool:
        wanted = self.attention == "bfloat16" or (self.attention == "auto" and has_products(ctx))
        if not wanted:
            return False
        notes, is_changed = round_attention(program, method, ctx)
        layers.update(notes)
        return is_changed

    def _choice(self) -> Choice:
        of_maps: ObserverName = "mse" if self.observer == "auto" else self.observer
        of_rows: ObserverName = "minmax" if self.observer == "auto" else self.observer
        return Choice(
            self.activations,
            self.residual,
            observer(of_maps, self.percentile),
            observer(of_rows, self.percentile),
            self.static_db,
        )


def _write(
    editor: Editor, selection: Selection, plan: ActivationPlan, packer: WeightPacker
) -> None:
    if not selection.layers:
        return
    for static in plan.static:
        insert_static(editor, static.group, static.encoding, static.readers)
    for dynamic in plan.dynamic:
        insert_dynamic(editor, dynamic.value, dynamic.dims, dynamic.readers)
    for layer in selection.layers:
        write = _write_table if layer.kind == "embedding" else _write_weight
        write(editor, layer, packer)
    editor.remove_dead()


def _write_weight(editor: Editor, layer: Layer, packer: WeightPacker) -> None:
    codes, scale = packer.nodes(editor, layer.weight, layer.name, layer.bits)
    dequantize = torch.ops.effc.dequantize.default
    restored = editor.call(layer.node, dequantize, codes, scale, None, before=layer.node)
    editor.set_argument(layer.node, 1, restored)


def _write_table(editor: Editor, layer: Layer, packer: WeightPacker) -> None:
    """Look up codes and scales instead of rows; only those rows are dequantized."""
    codes, scale = packer.nodes(editor, layer.weight, layer.name, layer.bits)
    node, lookup = layer.node, torch.ops.aten.embedding.default
    rows = [editor.call(node, lookup, one, layer.value, before=node) for one in (codes, scale)]
    dequantize = torch.ops.effc.dequantize.default
    editor.replace(node, editor.call(node, dequantize, *rows, None, before=node))
