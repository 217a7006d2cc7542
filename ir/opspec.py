"""The op table: what effc knows about every operator a program may contain.

Adding an operator is one entry in `ir/opspecs/`. An operator without an entry is reported with all
others of its kind before anything runs.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from typing import Any, TypeAlias

import sympy
from torch import fx

from effc.ir.symbols import Size, product, size_of

Names: TypeAlias = dict[sympy.Symbol, str]
Macs: TypeAlias = Callable[[fx.Node, Names], Size]
Couple: TypeAlias = Callable[[Any], Any]
Resize: TypeAlias = Callable[[Any, Any, Any], dict[str, Any]]


class Kind(Enum):
    """What a node does to its data; decides how it may be fused."""

    ELEMENTWISE = "elementwise"  # one output element from one element of each (broadcast) input
    VIEW = "view"  # the same elements under another shape or stride
    GATHER = "gather"  # output elements are picked from the inputs by index
    CREATE = "create"  # no tensor input
    REDUCE = "reduce"  # several input elements to one output element
    ROW = "row"  # each row of the last dimensions needs the whole row: norms, softmax
    ANCHOR = "anchor"  # the work: products, convolutions, attention
    SCALAR = "scalar"  # integer arithmetic on sizes


@dataclass(frozen=True)
class OpSpec:
    """What is known about one operator.

    Attributes:
        kind: How it moves data.
        flops: Floating-point operations per output element, besides multiply-adds.
        macs: Multiply-adds of a node as a size, for anchors.
        is_pure: Whether equal inputs give equal outputs and nothing else happens.
        couple: From a call and the axes of its inputs to those of its outputs
            (`ir/coupling/call.py`); None where it is not known what can be cut.
        resize: From a call and what is left of its operands to the arguments that change.
    """

    kind: Kind
    flops: int = 0
    macs: Macs | None = None
    is_pure: bool = True
    couple: Couple | None = None
    resize: Resize | None = None


@cache
def table() -> dict[str, OpSpec]:
    """The whole table, by operator name."""
    from effc.ir.opspecs import anchors, arithmetic, movement, reductions
    from effc.ir.opspecs.couplings import couple_of
    from effc.ir.opspecs.resizing import resize_of

    merged: dict[str, OpSpec] = {}
    for part in (arithmetic.TABLE, movement.TABLE, reductions.TABLE, anchors.TABLE):
        if repeated := merged.keys() & part.keys():
            raise ValueError(f"operators with two entries: {sorted(repeated)}")
        merged |= part
    return {
        name: replace(spec, couple=couple_of(name, spec.kind), resize=resize_of(name))
        for name, spec in merged.items()
    }


def op_name(node: fx.Node) -> str:
    """The operator of a node: `aten.linear.default`, `effc.quantize.default`, `getitem`."""
    if node.op != "call_function":
        return node.op
    if node.target is operator.getitem:
        return "getitem"
    if hasattr(node.target, "_schema"):
        return str(node.target)
    return f"{getattr(node.target, '__module__', '')}.{node.target.__name__}".lstrip("_.")


def spec_of(node: fx.Node) -> OpSpec | None:
    """The entry of a node's operator, or None where there is none."""
    return table().get(op_name(node))


def kind_of(node: fx.Node) -> Kind | None:
    """The kind of a node's operator; None for placeholders, weights, outputs and unknown ones."""
    found = spec_of(node) if node.op == "call_function" else None
    return found.kind if found else None


def numel(node: fx.Node, names: Names) -> Size:
    """Number of elements of all tensors a node computes."""
    value = node.meta["val"]
    if isinstance(value, tuple | list):
        return product([size_of(size, names) for size in value[0].shape])
    return product([size_of(size, names) for size in value.shape])
