"""Padding as memory: a border of zeros (or zero points) around a feature map."""

from dataclasses import dataclass

from torch import fx

from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.program import attribute
from effc.passes.lower.layout import CONVOLUTIONS

PAD = "aten.constant_pad_nd.default"


@dataclass(frozen=True)
class Border:
    """Padding around a feature map, filled before its kernel runs.

    Attributes:
        rows: Rows above and below.
        columns: Columns left and right.
        fill: The node whose value fills it (a zero point), or None for zeros.
    """

    rows: int
    columns: int
    fill: fx.Node | None = None

    def covers(self, other: "Border") -> bool:
        """Whether a kernel that needs `other` can use this one."""
        is_large = self.rows >= other.rows and self.columns >= other.columns
        return is_large and self.fill is other.fill


def sides(pad: fx.Node) -> tuple[int, int, int, int]:
    """Columns left and right, rows above and below, of a padding of maps."""
    left, right, top, bottom = pad.args[1]
    return left, right, top, bottom


def zero_point_of(convolution: fx.Node) -> fx.Node | None:
    """The node of an integer convolution's zero point."""
    return convolution.args[2] if "integer" in op_name(convolution) else None


def is_border(module: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a padding can be a border of what it pads: only convolutions read it, as their zero.

    Args:
        module: Where the weights are.
        node: A call, before operators are grouped.
    """
    if op_name(node) != PAD or node.meta["val"].dim() != 4 or len(node.args[1]) != 4:
        return False
    source = node.args[0]
    if source.op != "call_function" or kind_of(source) in (Kind.VIEW, Kind.SCALAR):
        return False
    if not all(isinstance(side, int) and side >= 0 for side in node.args[1]):
        return False
    return bool(node.users) and all(_reads_zero(module, user, node) for user in node.users)


def _reads_zero(module: fx.GraphModule, user: fx.Node, pad: fx.Node) -> bool:
    """Whether a user is a convolution without padding for which the fill means zero."""
    if op_name(user) not in CONVOLUTIONS or user.args[0] is not pad:
        return False
    if any(user.args[4]) or pad in user.args[1:3]:
        return False
    fill, zero_point = pad.args[2] if len(pad.args) > 2 else 0, zero_point_of(user)
    if zero_point is None:
        return fill == 0
    is_static = zero_point.op == "get_attr"
    return is_static and fill == int(attribute(module, str(zero_point.target)))
