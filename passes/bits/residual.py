"""Residual additions of feature maps: which of their operands get codes."""

from collections.abc import Collection, Iterator

from torch import fx

from effc.ir.opspec import Kind, kind_of, op_name
from effc.passes.bits.placement import feature_maps

ADD = "aten.add.Tensor"
CONVOLUTION = "aten.conv2d.default"


def residual_adds(graph: fx.Graph) -> Iterator[fx.Node]:
    """Additions of two feature maps."""
    maps = feature_maps(graph)
    for node in graph.nodes:
        if op_name(node) == ADD and node in maps and all(one in maps for one in node.args[:2]):
            yield node


def shortcuts(graph: fx.Graph, convolutions: Collection[fx.Node]) -> list[fx.Node]:
    """Operands of residual additions to store as codes although no layer reads them.

    The kernel of the convolution that ends later adds the other operand on the way out. That one is
    then written and read as codes, if it is the output of a quantized convolution (with what is
    fused into it) and nothing else reads it.

    Args:
        graph: With weights as attributes.
        convolutions: The convolutions that are quantized.
    """
    order = {node: position for position, node in enumerate(graph.nodes)}
    found: list[fx.Node] = []
    for add in residual_adds(graph):
        first = min(add.all_input_nodes, key=order.__getitem__)
        if len(first.users) == 1 and _producer(first) in convolutions:
            found.append(first)
    return found


def _producer(node: fx.Node) -> fx.Node:
    """The node before the norms and elementwise operators of one tensor that a kernel fuses."""
    while len(node.users) == 1 and op_name(node) != CONVOLUTION:
        tensors = [one for one in node.all_input_nodes if one.op != "get_attr"]
        is_fused = kind_of(node) == Kind.ELEMENTWISE or op_name(node) == "getitem"
        if len(tensors) != 1 or not is_fused:
            break
        node = tensors[0]
    return node
