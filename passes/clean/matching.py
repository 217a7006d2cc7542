"""What the rules of the clean passes share: reading nodes, and a rule made of functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from effc.ir.edit import Editor
from effc.ir.program import Program, attribute, value_of
from effc.ir.symbols import Size, simplify

aten = torch.ops.aten


def _never(node: fx.Node, program: Program) -> str | None:
    return None


@dataclass
class NodeRule:
    """A rule of `effc.ir.rewrite` made of functions.

    Attributes:
        name: Shown in reports and in the provenance of what it made.
        is_match: Whether the pattern that ends in a node is there.
        replace: Replaces it.
        refuse: Why a matching node must be left alone, or None.
    """

    name: str
    is_match: Callable[[fx.Node], bool]
    replace: Callable[[fx.Node, Editor], None]
    refuse: Callable[[fx.Node, Program], str | None] = _never

    def match(self, node: fx.Node) -> bool:
        """Whether the pattern is there."""
        return self.is_match(node)

    def check(self, node: fx.Node, program: Program) -> str | None:
        """Why not, or None."""
        return self.refuse(node, program)

    def rewrite(self, node: fx.Node, editor: Editor) -> None:
        """Replace the pattern."""
        self.replace(node, editor)


def is_call(node: Any, *targets: Any) -> bool:
    """Whether something is a call of one of some operators."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def is_tensor(node: Any) -> bool:
    """Whether something is a node that computes one tensor."""
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)


def size(value: int | torch.SymInt) -> Size:
    """A size over torch's own symbols, so that equal sizes compare equal."""
    return value if isinstance(value, int) else simplify(value.node.expr)


def sizes(node: fx.Node) -> tuple[Size, ...]:
    """The shape of the tensor a node computes, over torch's own symbols."""
    return tuple(size(entry) for entry in value_of(node).shape)


def dtype(node: fx.Node) -> torch.dtype:
    """The element type of the tensor a node computes."""
    return value_of(node).dtype


def rank(node: fx.Node) -> int:
    """The number of dimensions of the tensor a node computes."""
    return value_of(node).dim()


def is_same_type(node: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes compute tensors of equal dtype and shape."""
    return dtype(node) == dtype(other) and sizes(node) == sizes(other)


def has_one_user(node: fx.Node) -> bool:
    """Whether exactly one node reads a value."""
    return len(node.users) == 1


def tensor_of(node: Any) -> torch.Tensor | None:
    """The weight a node reads; None if it is not a weight."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    module = node.graph.owning_module
    return None if module is None else attribute(module, str(node.target))


def is_constant(node: Any) -> bool:
    """Whether a node depends on weights only: a weight, or a call of constant nodes."""
    if not is_tensor(node):
        return False
    if node.op == "get_attr":
        return True
    inputs = node.all_input_nodes
    return node.op == "call_function" and bool(inputs) and all(map(is_constant, inputs))


def is_number(value: Any) -> bool:
    """Whether an argument is a Python number (a truth value is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool)
