"""Which memory order results want: channels-last around convolutions, permuted for readers."""

import torch
from torch import fx

from effc.ir.opspec import Kind, kind_of, op_name

CHANNELS_LAST = (0, 2, 3, 1)
CONVOLUTIONS = ("aten.conv2d.default", "effc.conv2d_integer.default", "effc.conv2d_half.default")
ATTENTION = (
    "aten.scaled_dot_product_attention.default", "effc.attention_half.default",
    "effc.attention_integer.default",
)  # fmt: skip
MATRIX = ("aten.mm.default", "aten.bmm.default", "aten.matmul.default")
POOLS = (
    "aten.max_pool2d.default", "aten.avg_pool2d.default", "aten.adaptive_avg_pool2d.default",
    "aten._adaptive_avg_pool2d.default", "aten.upsample_nearest2d.vec",
)  # fmt: skip


def anchor_of(module: fx.GraphModule, call: fx.Node) -> fx.Node | None:
    """The operator that does a region's work, if it has one."""
    graph = module.get_submodule(call.target).graph
    return next((node for node in graph.nodes if kind_of(node) == Kind.ANCHOR), None)


def convolution_of(module: fx.GraphModule, call: fx.Node) -> fx.Node | None:
    """The convolution of a region, if it has one."""
    if call.op != "call_module":
        return None
    anchor = anchor_of(module, call)
    return anchor if anchor is not None and op_name(anchor) in CONVOLUTIONS else None


def packed_operands(anchor: fx.Node) -> set[fx.Node]:
    """Operands an anchor's kernel packs before use, however they lie."""
    is_packed = op_name(anchor) in MATRIX and anchor.args[0] is not anchor.args[1]
    return {anchor.args[1]} if is_packed else set()


def outer_operand(module: fx.GraphModule, call: fx.Node, inner: fx.Node) -> fx.Node:
    """The node of the outer graph that a region's placeholder stands for."""
    placeholders = list(module.get_submodule(call.target).graph.find_nodes(op="placeholder"))
    return call.args[placeholders.index(inner)]


def results_of(call: fx.Node) -> list[fx.Node]:
    """The outer nodes that take a region's results."""
    return [user for user in call.users if op_name(user) == "getitem"]


def channels_last_values(module: fx.GraphModule) -> set[fx.Node]:
    """Results of regions that should be channels-last.

    Inputs and results of convolutions are; pooling and elementwise regions follow their operands or
    their readers.
    """
    calls = [node for node in module.graph.nodes if node.op == "call_module"]
    wanted: set[fx.Node] = set()
    for call in calls:
        anchor = convolution_of(module, call)
        if anchor is not None:
            source = outer_operand(module, call, anchor.args[0])
            is_border = op_name(source) == "aten.constant_pad_nd.default"
            wanted.add(source.args[0] if is_border else source)
            wanted.update(filter(_is_map, results_of(call)))
    followers = [call for call in calls if _follows(module, call)]
    for call in (*followers, *reversed(followers)):
        values = [*call.args, *results_of(call)]
        maps = [value for value in values if isinstance(value, fx.Node) and _is_map(value)]
        if any(value in wanted for value in maps):
            wanted.update(maps)
    return {value for value in wanted if op_name(value) == "getitem"}


def _is_map(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dim() == 4 and node.op != "get_attr"


def _follows(module: fx.GraphModule, call: fx.Node) -> bool:
    """Whether a region computes maps and can work in any order of their dimensions."""
    graph = module.get_submodule(call.target).graph
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    return all(kind_of(n) == Kind.ELEMENTWISE or op_name(n) in POOLS for n in nodes)


def only_permutation(module: fx.GraphModule, node: fx.Node) -> tuple[int, ...] | None:
    """The order in which all readers of a result see its dimensions, if they agree on one.

    Only for results whose kernel can write any order: attention.
    """
    anchor = anchor_of(module, node.args[0])
    if anchor is None or op_name(anchor) not in ATTENTION:
        return None
    orders = {_order_of(user, node.meta["val"].dim()) for user in node.users}
    order = orders.pop() if len(orders) == 1 else None
    return order if order is not None and order[-1] == len(order) - 1 else None


def _order_of(user: fx.Node, rank: int) -> tuple[int, ...] | None:
    if op_name(user) == "aten.permute.default":
        return tuple(dim % rank for dim in user.args[1])
    if op_name(user) == "aten.transpose.int":
        order = list(range(rank))
        first, second = (dim % rank for dim in user.args[1:3])
        order[first], order[second] = order[second], order[first]
        return tuple(order)
    return None
