"""The pass `equalize-layers`: ranges of channels are evened out between neighbouring layers."""

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
from effc.passes.bits.layers import layer_names
from effc.passes.bits.weights import tensor_key

RULE = "equalize-layers"
LINEAR, CONVOLUTION = "aten.linear.default", "aten.conv2d.default"
LAYERS = (LINEAR, CONVOLUTION)
THROUGH = ("aten.relu.default", "aten.max_pool2d.default")
TINY = 1e-8


@dataclass(frozen=True)
class EqualizeLayers(Pass):
    """Scales channels between two layers so that the weights of both have equal ranges.

    Cross-layer equalisation (M. Nagel et al., "Data-Free Quantization", 2019, arXiv 1906.04721):
    where only ReLU or max pooling stands between two layers, which let positive scales through,
    channel i of the first is divided and the second multiplied by `s_i = sqrt(r1_i / r2_i)`, with
    r the largest magnitudes of the weights of that channel; over all pairs until nothing moves.
    Exact in float up to rounding.

    Attributes:
        rounds: At most so many passes over the pairs.
        tolerance: Done when no scale is further from 1 than this.
    """

    name: ClassVar[str] = RULE
    rounds: int = 20
    tolerance: float = 1e-3

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Equalise every pair of `forward`."""
        check_patterns(ctx, layer_names(program))
        pairs, refusals = pairs_of(program.forward)
        excluded = [pair for pair in pairs if any(ctx.is_excluded(label(one)) for one in pair)]
        refusals += [Refusal(RULE, label(first), "excluded by the user") for first, _ in excluded]
        pairs = [pair for pair in pairs if pair not in excluded]
        module = program.forward
        weights = {
            node: attribute(module, str(node.args[1].target)).double()
            for pair in pairs for node in pair
        }  # fmt: skip
        biases = {
            first: attribute(module, str(first.args[2].target)).double()
            for first, _ in pairs if len(first.args) > 2 and first.args[2] is not None
        }  # fmt: skip
        for _ in range(self.rounds if pairs else 0):
            moved = [equalise(pair, weights, biases) for pair in pairs]
            if max(moved) <= self.tolerance:
                break
        editor = Editor(program, FORWARD, RULE)
        for node, weight in weights.items():
            _replace(editor, node, 1, weight)
        for node, bias in biases.items():
            _replace(editor, node, 2, bias)
        editor.remove_dead()
        notes = {"pairs": [f"{label(first)} -> {label(second)}" for first, second in pairs]}
        return Outcome(editor.finish(), notes, tuple(refusals))


Pair = tuple[fx.Node, fx.Node]


def pairs_of(module: fx.GraphModule) -> tuple[list[Pair], list[Refusal]]:
    """Layers with only scale-equivariant operators between them, each read once."""
    pairs, refusals = [], []
    for node in module.graph.nodes:
        if op_name(node) not in LAYERS:
            continue
        after, steps = node, 0
        while len(after.users) == 1 and op_name(next(iter(after.users))) in THROUGH:
            after, steps = next(iter(after.users)), steps + 1
        reader = next(iter(after.users)) if len(after.users) == 1 else None
        if reader is None or op_name(reader) not in LAYERS or reader.args[0] is not after:
            if steps:
                reason = "its output does not go to one layer through ReLU or pooling only"
                refusals.append(Refusal(RULE, label(node), reason))
            continue
        why_not = _reason(module, node, reader)
        if why_not:
            refusals.append(Refusal(RULE, label(node), why_not))
        else:
            pairs.append((node, reader))
    return pairs, refusals


def _reason(module: fx.GraphModule, first: fx.Node, second: fx.Node) -> str | None:
    if op_name(first) != op_name(second):
        return "a linear and a convolution count channels in different dimensions"
    tensors = []
    for node in (first, second):
        for operand in node.args[1:3]:
            if isinstance(operand, fx.Node):
                if operand.op != "get_attr":
                    return f"a weight of {label(node)} is computed"
                tensors.append(attribute(module, str(operand.target)))
    readers: dict[Any, int] = {}
    for one in module.graph.find_nodes(op="get_attr"):
        key = tensor_key(attribute(module, str(one.target)))
        readers[key] = readers.get(key, 0) + len(one.users)
    if any(readers[tensor_key(tensor)] > 1 for tensor in tensors):
        return "a weight is shared with another layer"
    channels, groups = tensors[0].shape[0], _groups(second)
    if groups not in (1, channels):
        return "the layer after it has groups of several channels"
    return None


def _groups(node: fx.Node) -> int:
    return int(node.args[6]) if op_name(node) == CONVOLUTION and len(node.args) > 6 else 1


def equalise(pair: Pair, weights: dict[fx.Node, Tensor], biases: dict[fx.Node, Tensor]) -> float:
    """Even out one pair; by how much the scale furthest from 1 differs from it."""
    first, second = pair
    own, next_one = weights[first], weights[second]
    is_depthwise = _groups(second) > 1
    dim = 0 if is_depthwise else 1
    ranges = own.flatten(1).abs().amax(1), next_one.transpose(0, dim).flatten(1).abs().amax(1)
    scale = torch.sqrt(ranges[0].clamp(min=TINY) / ranges[1].clamp(min=TINY))
    scale = torch.where((ranges[0] > TINY) & (ranges[1] > TINY), scale, torch.ones_like(scale))
    weights[first] = own / scale.reshape(-1, *[1] * (own.dim() - 1))
    if first in biases:
        biases[first] = biases[first] / scale
    shape = [1] * next_one.dim()
    shape[dim] = -1
    weights[second] = next_one * scale.reshape(shape)
    return float((scale - 1).abs().max())


def _replace(editor: Editor, node: fx.Node, place: int, tensor: Tensor) -> None:
    old: Any = node.args[place]
    made = editor.weight(str(old.target), tensor.float(), like=old)
    editor.set_argument(node, place, made)
