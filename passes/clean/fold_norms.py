"""Folds batch norm, and constant scales and shifts, into the convolution or linear before them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, fx

from effc.ir.edit import Editor
from effc.ir.program import Program
from effc.ir.rewrite import apply
from effc.passes.base import Outcome, Pass, PassContext
from effc.passes.clean.channel_maps import (
    PRODUCERS,
    ChannelMap,
    arithmetic_map,
    channel_dimension,
    mapped_producer,
    norm_map,
    norm_of,
    scaled_weight,
)
from effc.passes.clean.matching import NodeRule, aten, dtype, has_one_user, is_call, rank, tensor_of
from effc.passes.clean.naming import next_to


@dataclass(frozen=True)
class FoldNorms(Pass):
    """Multiplies the scale of a batch norm into the weight before it and its shift into the bias.

    A norm that cannot be folded becomes one multiplication and one addition with constants. The
    products are computed in float64 and rounded once.
    """

    name: ClassVar[str] = "fold-norms"

    def run(self, program: Program, ctx: PassContext) -> Outcome:
        """Fold what can be folded, then replace the norms that are left."""
        folded = apply(program, FOLDS)
        split = apply(program, SPLITS)
        fired = dict(sorted((folded.fired + split.fired).items()))
        refusals = tuple(folded.refusals + split.refusals)
        return Outcome(folded.changed or split.changed, {"rewrites": fired}, refusals)


def _why_not_into(producer: fx.Node) -> str | None:
    """Why a producer cannot take up a map of its output."""
    if not is_call(producer, *PRODUCERS):
        return "it does not follow a convolution or linear"
    if not has_one_user(producer):
        return "the output of the layer before it has other users"
    weight, bias = producer.args[1], producer.args[2] if len(producer.args) > 2 else None
    if tensor_of(weight) is None or (bias is not None and tensor_of(bias) is None):
        return "the weight of the layer before it is computed"
    if _readers(weight) > 1:
        return "the weight of the layer before it is shared with another layer"
    return None


def _readers(weight: Any) -> int:
    tensor = tensor_of(weight)
    same = [node for node in weight.graph.find_nodes(op="get_attr") if tensor_of(node) is tensor]
    return sum(len(node.users) for node in same)


def _why_not_norm(node: fx.Node, program: Program) -> str | None:
    norm = norm_of(node)
    if norm is None:
        return "it is not a batch norm"
    if norm is not node and not has_one_user(norm):
        return "its statistics are read"
    found = norm_map(norm)
    if found is None:
        return "its statistics are not constants"
    if (reason := _why_not_into(found.x)) is not None:
        return reason
    if channel_dimension(found.x) != 1:
        return "it normalises another dimension than the outputs of the layer before it"
    return None


def _why_not_arithmetic(node: fx.Node, program: Program) -> str | None:
    found = arithmetic_map(node)
    if found is None:
        return "its constant is not one number per channel"
    return _why_not_into(found.x)


def _fold_norm(node: fx.Node, editor: Editor) -> None:
    norm = norm_of(node)
    found = None if norm is None else norm_map(norm)
    _fold(node, found, editor)


def _fold_arithmetic(node: fx.Node, editor: Editor) -> None:
    _fold(node, arithmetic_map(node), editor)


def _fold(node: fx.Node, found: ChannelMap | None, editor: Editor) -> None:
    if found is None:
        raise TypeError(f"{node.name} does not map channels")
    producer: Any = found.x
    weight, old_bias = producer.args[1], producer.args[2] if len(producer.args) > 2 else None
    tensor: Any = tensor_of(weight)
    new_weight = editor.weight(
        next_to(weight.target), scaled_weight(producer, tensor, found.scale), like=weight
    )
    args = [producer.args[0], new_weight, _folded_bias(producer, old_bias, found, editor)]
    new = editor.call(producer, producer.target, *args, *producer.args[3:], before=node)
    editor.replace(node, new)


def _folded_bias(producer: Any, bias: Any, found: ChannelMap, editor: Editor) -> fx.Node | None:
    """The bias `scale * bias + shift`; none where there was none and nothing is added."""
    old = tensor_of(bias)
    if old is None and not found.shift.any():
        return None
    value: Tensor = found.shift if old is None else found.shift + old.double() * found.scale
    weight = producer.args[1]
    path = (
        bias.target if bias is not None else f"{weight.target.rpartition('.')[0]}.bias".lstrip(".")
    )
    like = bias if bias is not None else weight
    return editor.weight(next_to(path), value.to(dtype(weight)), like=like)


def _is_norm(node: fx.Node) -> bool:
    return norm_of(node) is not None


def _cannot_split(node: fx.Node, program: Program) -> str | None:
    norm = norm_of(node)
    if norm is None or norm_map(norm) is None:
        return "its statistics are not constants"
    if norm is not node and not has_one_user(norm):
        return "its statistics are read"
    return None


def _split(node: fx.Node, editor: Editor) -> None:
    """Write a norm as `x * scale + shift`, the constants of shape `[channels, 1, ...]`."""
    norm: Any = norm_of(node)
    found = norm_map(norm)
    if found is None:
        raise TypeError(f"{node.name} has no constant statistics")
    owner = norm.args[3].target.rpartition(".")[0]
    shape = (-1, *[1] * (rank(found.x) - 2))
    scale, shift = (
        editor.weight(
            f"{owner}.{name}".lstrip("."), value.reshape(shape).to(dtype(node)), like=norm
        )
        for name, value in (("scale", found.scale), ("shift", found.shift))
    )
    product = editor.call(norm, aten.mul.Tensor, found.x, scale, before=node)
    editor.replace(node, editor.call(norm, aten.add.Tensor, product, shift, before=node))


def _is_mapped(node: fx.Node) -> bool:
    return mapped_producer(node) is not None


FOLDS = (
    NodeRule("fold-batch-norm", _is_norm, _fold_norm, _why_not_norm),
    NodeRule("fold-channel-map", _is_mapped, _fold_arithmetic, _why_not_arithmetic),
)
SPLITS = (NodeRule("split-batch-norm", _is_norm, _split, _cannot_split),)
