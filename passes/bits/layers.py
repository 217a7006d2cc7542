"""Which layers can be quantized, and why the others cannot."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import fx

from effc.ir.errors import Refusal, UsageError
from effc.ir.opspec import op_name
from effc.ir.program import Program, attribute, dtype_name, value_of
from effc.ir.provenance import label
from effc.passes.base import PassContext
from effc.passes.bits.weights import TensorKey, tensor_key

RULE = "quantize"
Kind = Literal["linear", "conv2d", "embedding"]

KINDS: dict[str, Kind] = {
    "aten.linear.default": "linear",
    "aten.conv2d.default": "conv2d",
    "aten.embedding.default": "embedding",
}
LATER = {
    "aten.conv1d.default": "its input has no batch dimension, or it is not in canonical form",
    "aten.conv1d.padding": "its padding is not given in numbers; run the clean passes first",
    "aten.conv2d.padding": "its padding is not given in numbers; run the clean passes first",
    "aten.conv3d.default": "three-dimensional convolutions have no integer form yet",
    "aten.conv_transpose1d.default": "transposed convolutions have no integer form yet",
    "aten.conv_transpose2d.input": "transposed convolutions have no integer form yet",
}
DEQUANTIZE = ("effc.dequantize.default", "effc.dequantize_grouped.default")
KEPT, WIDTHS = ("none", "float"), tuple(map(str, range(2, 9)))
LEAST_PRODUCTS = 4
MOST_PRODUCTS = (2**31 - 1) // (255 * 127)  # an int32 sum holds them whatever the codes
LEAST_COLUMNS = 8
LEAST_TABLE_NBYTES = 16 << 10


@dataclass(frozen=True)
class Layer:
    """A node with weights that may become codes.

    Attributes:
        node: A linear, conv2d or embedding.
        name: Its module path in the user's model.
        kind: Which of them.
        bits: Of a code of the weight.
    """

    node: fx.Node
    name: str
    kind: Kind
    bits: int = 8

    @property
    def weight(self) -> fx.Node:
        """The node that reads the weight."""
        return self.node.args[0 if self.kind == "embedding" else 1]

    @property
    def value(self) -> fx.Node:
        """The node that computes what the weight is applied to."""
        return self.node.args[1 if self.kind == "embedding" else 0]


@dataclass(frozen=True)
class Selection:
    """Layers to quantize, in graph order, and what was left alone."""

    layers: tuple[Layer, ...]
    refusals: tuple[Refusal, ...]

    @property
    def products(self) -> list[Layer]:
        """The linears and convolutions: the layers that read an activation."""
        return [layer for layer in self.layers if layer.kind != "embedding"]

    def without(self, layer: Layer, reason: str) -> "Selection":
        """Leave one layer alone."""
        kept = tuple(other for other in self.layers if other is not layer)
        return Selection(kept, (*self.refusals, Refusal(RULE, layer.name, reason)))


@dataclass(frozen=True)
class Wanted:
    """The user's options that concern layers.

    Attributes:
        embeddings: Whether tables are quantized.
        skip_first: Whether the first linear or convolution stays in float.
        skip_last: Whether the last one does.
        bits: Of weights without a rule.
    """

    embeddings: bool = True
    skip_first: bool = False
    skip_last: bool = False
    bits: int = 8


def layer_names(program: Program) -> list[str]:
    """Names of everything in a program that has a kind of layer this or a later version packs."""
    return [
        label(node)
        for module in program.methods.values()
        for node in module.graph.nodes
        if op_name(node) in KINDS or op_name(node) in LATER
    ]


def select(program: Program, method: str, ctx: PassContext, wanted: Wanted) -> Selection:
    """The layers of a method that can be quantized and that the user did not rule out.

    Raises:
        UsageError: If a rule asks for bits there are none of.
    """
    module = program.methods[method]
    selection = Selection((), ())
    for node in module.graph.nodes:
        name, op = label(node), op_name(node)
        if op in KINDS:
            layer = Layer(node, name, KINDS[op], _bits_of(name, ctx, wanted))
            reason = _coded_reason(layer) or _users_reason(layer, ctx, wanted) or _reason(layer)
            selection = Selection((*selection.layers, layer), selection.refusals)
            selection = selection.without(layer, reason) if reason else selection
        elif op in LATER:
            refusal = Refusal(RULE, name, LATER[op])
            selection = Selection(selection.layers, (*selection.refusals, refusal))
    products = selection.products
    if wanted.skip_first and products:
        selection = selection.without(products[0], "the first layer stays in float (skip_first)")
    if wanted.skip_last and products:
        selection = selection.without(products[-1], "the last layer stays in float (skip_last)")
    return _without_shared_tables(selection, module)


def _bits_of(name: str, ctx: PassContext, wanted: Wanted) -> int:
    text = str(ctx.options_for(name).get("bits", wanted.bits))
    if text in KEPT:
        return wanted.bits
    if text not in WIDTHS:
        raise UsageError(f"bits={text} for layer {name}: quantize has 2 to 8, none and float")
    return int(text)


def _users_reason(layer: Layer, ctx: PassContext, wanted: Wanted) -> str | None:
    if layer.name in ctx.kept:
        return "kept in float for the quality budget"
    if ctx.is_excluded(layer.name):
        return "excluded by the user"
    bits = ctx.options_for(layer.name).get("bits")
    if bits in KEPT:
        return f"a rule keeps it in float (bits={bits})"
    if layer.kind == "embedding" and not wanted.embeddings:
        return "the option embeddings is off"
    return None


def _coded_reason(layer: Layer) -> str | None:
    return "its weight is quantized already" if op_name(layer.weight) in DEQUANTIZE else None


def _reason(layer: Layer) -> str | None:
    """Why a layer cannot be quantized, or None."""
    reason = weight_reason(layer)
    if reason:
        return reason
    return _embedding_reason(layer.weight) if layer.kind == "embedding" else _product_reason(layer)


def weight_reason(layer: Layer) -> str | None:
    """Why the weight of a layer cannot become codes, or None."""
    weight = layer.weight
    if reason := _coded_reason(layer):
        return reason
    if weight.op != "get_attr":
        return "its weight is not a constant"
    if value_of(weight).dtype != torch.float32:
        return f"its weight is {dtype_name(value_of(weight).dtype)}; only f32 is quantized"
    return None


def _product_reason(layer: Layer) -> str | None:
    value, weight = value_of(layer.value), value_of(layer.weight)
    if value.dtype != torch.float32:
        return f"its input is {dtype_name(value.dtype)}; only f32 is quantized"
    if layer.kind == "conv2d" and value.dim() != 4:
        return "its input has no batch dimension"
    if weight[0].numel() < LEAST_PRODUCTS:
        return f"its dot products have fewer than {LEAST_PRODUCTS} terms"
    if weight[0].numel() > MOST_PRODUCTS:
        return f"its dot products have more than {MOST_PRODUCTS} terms, too many for int32"
    return None


def _embedding_reason(weight: fx.Node) -> str | None:
    table = value_of(weight)
    if table.dim() != 2 or table.shape[1] < LEAST_COLUMNS:
        return f"its table has fewer than {LEAST_COLUMNS} columns"
    if table.numel() * table.element_size() < LEAST_TABLE_NBYTES:
        return f"its table is smaller than {LEAST_TABLE_NBYTES >> 10} KiB"
    return None


def _without_shared_tables(selection: Selection, module: fx.GraphModule) -> Selection:
    """Leave tables alone that something else goes on reading in float: two copies save nothing."""
    readers: dict[TensorKey, set[fx.Node]] = defaultdict(set)
    for node in module.graph.find_nodes(op="get_attr"):
        readers[tensor_key(attribute(module, node.target))] |= node.users.keys()
    packed = {layer.node for layer in selection.layers}
    for layer in selection.layers:
        others = readers[tensor_key(attribute(module, str(layer.weight.target)))] - packed
        if layer.kind == "embedding" and others:
            names = ", ".join(sorted(map(label, others)))
            reason = f"its table is also read in float by {names}"
            selection = selection.without(layer, reason)
    return selection
