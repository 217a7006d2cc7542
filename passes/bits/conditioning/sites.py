"""Values that linear layers read, and what computes them: where channels can be changed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from effc.ir.edit import Editor
from effc.ir.opspec import op_name
from effc.ir.program import attribute
from effc.ir.provenance import label
from effc.passes.bits.weights import tensor_key

LINEAR = "aten.linear.default"
LAYER_NORM, RMS_NORM = "aten.layer_norm.default", "aten.rms_norm.default"
NORMS = (LAYER_NORM, RMS_NORM)
GATES = "aten.mul.Tensor"


@dataclass(frozen=True)
class Site:
    """A value whose channels can be changed for free.

    Attributes:
        value: What the readers read.
        readers: The linears that read it, all of its readers.
        source: The norm or linear that takes up the change; for a gated value the linear whose
            output is multiplied.
    """

    value: fx.Node
    readers: tuple[fx.Node, ...]
    source: fx.Node

    @property
    def name(self) -> str:
        """The layers that read it."""
        return ", ".join(label(reader) for reader in self.readers)

    @property
    def can_shift(self) -> bool:
        """Whether the source can add a constant to every channel."""
        return self.value is self.source and op_name(self.source) != RMS_NORM


def sites_of(module: fx.GraphModule) -> tuple[list[Site], dict[str, str]]:
    """Every value that only linears read, and per value that cannot be changed why."""
    found, refused = [], dict[str, str]()
    for value in module.graph.nodes:
        readers = tuple(user for user in value.users if op_name(user) == LINEAR)
        readers = tuple(one for one in readers if one.args[0] is value)
        if not readers:
            continue
        names = ", ".join(map(label, readers))
        if len(readers) < len(value.users):
            refused[names] = "something else reads their input, too"
            continue
        source = _source(value)
        reason = "no norm or linear computes their input" if source is None else None
        reason = reason or _weights_reason(module, (*readers, *((source,) if source else ())))
        if reason or source is None:
            refused[names] = reason or ""
        else:
            found.append(Site(value, readers, source))
    return found, refused


def _source(value: fx.Node) -> fx.Node | None:
    """What takes up a scale of every channel of a value."""
    name = op_name(value)
    if name in NORMS:
        weight: Any = value.args[2] if len(value.args) > 2 else None
        return value if isinstance(weight, fx.Node) and weight.op == "get_attr" else None
    if name == LINEAR:
        return value
    if name == GATES:
        for factor in value.args:
            is_linear = isinstance(factor, fx.Node) and op_name(factor) == LINEAR
            if is_linear and len(factor.users) == 1:
                return factor
    return None


def _weights_reason(module: fx.GraphModule, nodes: tuple[fx.Node, ...]) -> str | None:
    """Why the weights of nodes cannot be changed."""
    readers: dict[Any, int] = {}
    for node in module.graph.find_nodes(op="get_attr"):
        key = tensor_key(attribute(module, str(node.target)))
        readers[key] = readers.get(key, 0) + len(node.users)
    for node in nodes:
        place = 2 if op_name(node) in NORMS else 1
        for operand in node.args[place : place + 2]:
            if not isinstance(operand, fx.Node):
                continue
            if operand.op != "get_attr":
                return f"a weight of {label(node)} is computed"
            if readers[tensor_key(attribute(module, str(operand.target)))] > 1:
                return f"a weight of {label(node)} is shared"
    return None


def change_channels(editor: Editor, site: Site, scale: Tensor, shift: Tensor | None = None) -> None:
    """Let a site hold `(value - shift) / scale`, and its readers make up for it.

    The norm or linear before takes `1 / scale` into its weight and the shift into its bias; the
    readers take `scale` into their columns and `W shift` into their bias. Products are float64.

    Args:
        editor: Of the method.
        site: Where.
        scale: float64 [channels], not 0.
        shift: float64 [channels]; None for none.
    """
    for reader in site.readers:
        weight = _operand(editor, reader, 1)
        if shift is not None:
            old = _operand(editor, reader, 2)
            moved = weight @ shift if old is None else old + weight @ shift
            _replace(editor, reader, 2, moved)
        _replace(editor, reader, 1, weight * scale)
    source, is_norm = site.source, op_name(site.source) in NORMS
    at = 2 if is_norm else 1
    weight, bias = _operand(editor, source, at), _operand(editor, source, at + 1)
    if bias is None and shift is not None:
        bias = torch.zeros_like(scale)
    if bias is not None:
        _replace(editor, source, at + 1, (bias if shift is None else bias - shift) / scale)
    _replace(editor, source, at, weight / (scale if is_norm else scale[:, None]))


def _operand(editor: Editor, node: fx.Node, place: int) -> Any:
    """A weight of a node in float64; None if it has none there."""
    operand: Any = node.args[place] if len(node.args) > place else None
    is_weight = isinstance(operand, fx.Node)
    return attribute(editor.module, str(operand.target)).double() if is_weight else None


def _replace(editor: Editor, node: fx.Node, place: int, tensor: Tensor) -> None:
    old: Any = node.args[place] if len(node.args) > place else None
    if old is None:
        weight: Any = node.args[place - 1]
        path, like = f"{str(weight.target).rpartition('.')[0]}.bias".lstrip("."), weight
    else:
        path, like = str(old.target), old
    made = editor.weight(path, tensor.float(), like=like)
    if len(node.args) > place:
        editor.set_argument(node, place, made)
    else:
        node.args = (*node.args, made)
        editor.edits += 1
