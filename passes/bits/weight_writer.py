"""Writes weights in codes into a graph: dequantize nodes, rounded activations, biases, notes."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.float_formats import LARGEST
from effc.ir.program import attribute
from effc.passes.bits.grouped import Format, Grouped, Joined
from effc.passes.bits.layers import Layer
from effc.passes.bits.weights import TensorKey, tensor_key

Activations = Literal["auto", "int8", "int16", "float8", "bfloat16", "float32"]
TINY = 1e-30
LIMITS = {"int8": (127, torch.int8), "int16": (32767, torch.int16)}
NOTES = {"int8": "dynamic int8 per token", "int16": "dynamic int16 per token, products in float32",
         "float8": "dynamic E4M3 per token, products in float32",
         "bfloat16": "bfloat16, products in float32", "float32": "float32"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Written:
    """A weight as it is written.

    Attributes:
        found: In codes.
        sqnr_db: Signal to quantization noise of the weight.
        shift: What is added to the bias, float32 [out], or None.
    """

    found: Joined
    sqnr_db: float
    shift: torch.Tensor | None = None


Packed = dict[tuple[TensorKey, Format], Written]


def bias_of(node: fx.Node, module: fx.GraphModule) -> torch.Tensor | None:
    """The bias of a linear."""
    bias: Any = node.args[2] if len(node.args) > 2 else None
    return None if bias is None else attribute(module, bias.target)


@dataclass
class Writer:
    """Replaces the weights of one method's layers; tied weights and shared inputs once.

    Attributes:
        editor: Of the method.
        rounded: A weight in codes, by layer, weight and format.
        activations: How they are rounded.
        packed: What is known already.
    """

    editor: Editor
    rounded: Callable[[Layer, torch.Tensor, Format], Written]
    activations: Activations
    packed: Packed
    _nodes: dict[tuple[TensorKey, Format], list[list[fx.Node | None]]] = field(default_factory=dict)
    _codes: dict[tuple[fx.Node, str], fx.Node] = field(default_factory=dict)

    def write(self, layer: Layer, form: Format, notes: dict[str, dict[str, Any]]) -> None:
        """Let a layer read a dequantized weight, and note what was done."""
        tensor, node = attribute(self.editor.module, str(layer.weight.target)), layer.node
        key = tensor_key(tensor), form
        if key not in self.packed:
            self.packed[key] = self.rounded(layer, tensor, form)
        written = self.packed[key]
        value, mode = layer.value, self._mode(form, written.found)
        self.editor.set_argument(node, 1, self._weight(layer, written.found, form))
        if mode != "float32":
            self.editor.set_argument(node, 0, self._rounded(value, mode))
        if written.shift is not None:
            self._shift(layer, written.shift)
        name, number = layer.name, 1
        while name in notes:
            number += 1
            name = f"{layer.name}#{number}"
        decibel = written.sqnr_db
        notes[name] = {
            "weight": weight_text(written.found, form),
            "weight_sqnr_db": round(decibel, 2) if abs(decibel) < float("inf") else None,
            "weight_nbytes": written.found.nbytes,
            "activation": NOTES[mode],
            **({"kernel": "codes are looked up in a table"} if written.found.has_table else {}),
        }

    def _mode(self, form: Format, found: Joined) -> str:
        """How the activations of a layer are rounded."""
        if self.activations != "auto":
            return self.activations
        is_exact = form.scheme in ("int", "ternary") and not found.has_table
        return "int8" if is_exact else "float32"

    def _weight(self, layer: Layer, found: Joined, form: Format) -> fx.Node:
        """The dequantized weight; that of several runs side by side."""
        node, dequantize = layer.node, torch.ops.effc.dequantize_grouped.default
        parts = []
        for run, operands in zip(found.runs, self._operands(layer, found, form), strict=True):
            *stored, table = operands
            settings = (run.bits, run.group, run.features, *([] if table is None else [table]))
            parts.append(self.editor.call(node, dequantize, *stored, *settings, before=node))
        if len(parts) == 1:
            return parts[0]
        return self.editor.call(node, torch.ops.aten.cat.default, parts, 1, before=node)

    def _operands(self, layer: Layer, found: Joined, form: Format) -> list[list[fx.Node | None]]:
        """Nodes that read codes, scales, zero points and tables, named after the weight."""
        key = tensor_key(attribute(self.editor.module, str(layer.weight.target))), form
        if key not in self._nodes:
            self._nodes[key] = [self._stored(layer, run) for run in found.runs]
        return self._nodes[key]

    def _stored(self, layer: Layer, run: Grouped) -> list[fx.Node | None]:
        path, like = str(layer.weight.target), layer.weight
        parts = {"codes": run.codes, "scale": run.scale,
                 "zero_point": run.zero_point, "table": run.table}  # fmt: skip
        return [
            None if part is None else self.editor.weight(f"{path}_{name}", part, like=like)
            for name, part in parts.items()
        ]

    def _shift(self, layer: Layer, shift: torch.Tensor) -> None:
        """Add to the bias of a layer, or give it one."""
        old = bias_of(layer.node, self.editor.module)
        path = f"{str(layer.weight.target).rpartition('.')[0]}.bias_corrected".lstrip(".")
        total = shift if old is None else old + shift
        bias = self.editor.weight(path, total, like=layer.weight)
        layer.node.args = (*layer.node.args[:2], bias)
        self.editor.edits += 1

    def _rounded(self, value: fx.Node, mode: str) -> fx.Node:
        """A value as what its codes stand for."""
        if (value, mode) not in self._codes:
            place = value.next
            while place.op in ("placeholder", "get_attr"):
                place = place.next
            make = {"float8": self._float8, "bfloat16": self._bfloat16}.get(mode)
            found = make(value, place) if make else self._integers(value, place, *LIMITS[mode])
            self._codes[value, mode] = found
        return self._codes[value, mode]

    def _integers(self, value: fx.Node, place: fx.Node, limit: int, dtype: torch.dtype) -> fx.Node:
        """Codes around zero with a scale per token."""
        effc = torch.ops.effc
        call = partial(self.editor.call, value, before=place)
        parts = call(effc.quantize_symmetric.default, value, [-1], limit, dtype)
        codes, scale = (call(operator.getitem, parts, i) for i in range(2))
        return call(effc.dequantize.default, codes, scale, None)

    def _float8(self, value: fx.Node, place: fx.Node) -> fx.Node:
        """E4M3 with a scale per token that takes the largest magnitude to the largest value."""
        aten, call = torch.ops.aten, partial(self.editor.call, value, before=place)
        size = call(aten.amax.default, call(aten.abs.default, value), [-1], True)
        scale = call(aten.mul.Tensor, call(aten.clamp.default, size, TINY), 1 / LARGEST["e4m3"])
        codes = call(
            torch.ops.effc.round_float.default, call(aten.div.Tensor, value, scale), "e4m3"
        )
        return call(aten.mul.Tensor, codes, scale)

    def _bfloat16(self, value: fx.Node, place: fx.Node) -> fx.Node:
        """Rounded to bfloat16."""
        cast = partial(self.editor.call, value, torch.ops.aten._to_copy.default, before=place)
        return cast(cast(value, dtype=torch.bfloat16), dtype=torch.float32)


def weight_text(found: Joined, form: Format) -> str:
    """The format of a weight in words; of several runs, how many columns have which bits."""
    if len(found.runs) == 1:
        return str(form)
    columns: dict[int, int] = {}
    for run in found.runs:
        columns[run.bits] = columns.get(run.bits, 0) + run.features
    shares = ", ".join(f"{columns[bits]} in {bits}" for bits in sorted(columns))
    return f"{form}, columns by bits: {shares}"
