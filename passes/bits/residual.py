"""Feature maps that get codes although no layer reads them: in residual additions, before gates."""

from collections.abc import Collection, Iterator

from torch import fx

from effc.ir.opspec import Kind, kind_of, op_name
from effc.passes.bits.placement import feature_maps
from effc.passes.lower.gates import gate_of, is_image_mean

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


def gated_maps(graph: fx.Graph, convolutions: Collection[fx.Node]) -> list[fx.Node]:
    """Maps to store as codes because a gate reads them twice (squeeze-and-excitation).

    A mean over the image and a product with what is made of it read such a map, the output of a
    quantized convolution with what is fused into it. As codes it takes a quarter of the memory.

    Args:
        graph: With weights as attributes.
        convolutions: The convolutions that are quantized.
    """
    return [
        node
        for node in feature_maps(graph)
        if len(node.users) == 2
        and sum(map(is_image_mean, node.users)) == 1
        and any(gate_of(user, node) for user in node.users)
        and _producer(node, readers=2) in convolutions
    ]


def _producer(node: fx.Node, readers: int = 1) -> fx.Node:
    """The node before the norms and elementwise operators of one tensor that a kernel fuses."""
    while len(node.users) == readers and op_name(node) != CONVOLUTION:
        tensors = [one for one in node.all_input_nodes if one.op != "get_attr"]
        is_fused = kind_of(node) == Kind.ELEMENTWISE or op_name(node) == "getitem"
        if len(tensors) != 1 or not is_fused:
            break
        node, readers = tensors[0], 1
    return node
