"""Which values of a graph get codes, and which of them must share their parameters."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from scipy.cluster.hierarchy import DisjointSet
from torch import fx

from effc.ir.opspec import Kind, kind_of, op_name
from effc.ir.opspecs.reductions import POOLS

CONVOLUTIONS = {"aten.conv2d.default", "aten.conv2d.padding", "aten.conv_transpose2d.input"}
THROUGH = (Kind.ELEMENTWISE, Kind.VIEW, Kind.GATHER)
NORMALISED = "aten._native_batch_norm_legit_no_training.default"
SPLITS = {"aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default"}
PADS = {"aten.constant_pad_nd.default", "aten.pad.default"}
CAT = "aten.cat.default"
MOVES = {
    "_unsafe_view.default", "alias.default", "channel_shuffle.default", "clone.default",
    "contiguous.default", "detach.default", "expand.default", "flatten.using_ints", "flip.default",
    "index_select.default", "max_pool2d.default", "narrow.default", "permute.default",
    "pixel_shuffle.default", "pixel_unshuffle.default", "reflection_pad2d.default",
    "replication_pad2d.default", "reshape.default", "select.int", "slice.Tensor", "squeeze.dim",
    "squeeze.dims", "transpose.int", "unsqueeze.default", "upsample_nearest2d.default",
    "upsample_nearest2d.vec", "view.default"
}  # fmt: skip
PICKS = SPLITS | {f"aten.{name}" for name in MOVES}


@dataclass(frozen=True)
class Group:
    """Values that share one scale and zero point.

    Attributes:
        values: In graph order.
        measured: Those whose statistics decide the parameters: the ones a layer reads.
    """

    values: tuple[fx.Node, ...]
    measured: tuple[fx.Node, ...]


def feature_maps(graph: fx.Graph) -> dict[fx.Node, None]:
    """Values `[batch, channels, height, width]` of a convolutional net, in graph order.

    They start at an input or output of a convolution and go on through elementwise operators,
    pooling, and whatever moves elements; the tuple of a split counts as its parts.
    """
    pools = {f"aten.{name}" for name in POOLS} | {"aten.mean.dim", NORMALISED}
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if _rank(node) != 4:
            continue
        is_read = any(op_name(user) in CONVOLUTIONS and user.args[0] is node for user in node.users)
        goes_on = kind_of(node) in THROUGH or op_name(node) in pools
        follows = goes_on and any(one in found for one in node.all_input_nodes)
        if op_name(node) in CONVOLUTIONS or is_read or follows:
            found[node] = None
    return found


def picked_from(node: fx.Node) -> fx.Node | None:
    """The value whose elements a node hands on unchanged (with 0.0 for padding), if it does."""
    name = op_name(node)
    if name == "getitem":
        split = _argument(node, 0)
        source = _argument(split, 0) if op_name(split) in SPLITS else None
    else:
        is_kept = name in PICKS or (name in PADS and _pads_zero(node))
        source = _argument(node, 0) if is_kept else None
    return source if isinstance(source, fx.Node) else None


def groups_of(graph: fx.Graph, measured: Collection[fx.Node]) -> list[Group]:
    """Extend the values layers read to all that get codes, and find those that share parameters.

    A node that hands on elements of a feature map can compute with codes if its input and its
    result have codes of the same parameters. So codes go upwards from a value that a layer reads,
    through such nodes, as long as nothing else reads the map; and a map and what is picked from it
    share. The inputs of a concatenation take its parameters, unless a layer reads them, too: then
    they keep their own.

    Args:
        graph: With weights as attributes.
        measured: The values layers read as codes.
    """
    coded = _extended(graph, measured)
    order = [node for node in graph.nodes if node in coded]
    sets = DisjointSet(order)
    for node in order:
        source = picked_from(node)
        if source is not None and source in coded:
            sets.merge(node, source)
    for node in reversed(order):
        for part in _argument(node, 0) if op_name(node) == CAT else ():
            if part in coded and sets.subset(part).isdisjoint(measured):
                sets.merge(node, part)
    grouped: dict[fx.Node, list[fx.Node]] = {}
    for node in order:
        grouped.setdefault(sets[node], []).append(node)
    return [
        Group(tuple(values), tuple(value for value in values if value in measured))
        for values in grouped.values()
    ]


def _extended(graph: fx.Graph, measured: Collection[fx.Node]) -> set[fx.Node]:
    """`measured` and the feature maps that only nodes with codes read."""
    maps, coded = feature_maps(graph), set(measured)
    for node in reversed(graph.nodes):
        readers = list(_readers(node))
        is_tensor = isinstance(node.meta.get("val"), torch.Tensor)
        if node not in maps or not is_tensor or not readers:
            continue
        if all(reader in coded and _hands_on(reader) for reader in readers):
            coded.add(node)
    return coded


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """Users of a value, the parts of a split in place of the split."""
    for user in node.users:
        if op_name(user) in SPLITS:
            yield from user.users
        else:
            yield user


def _hands_on(node: fx.Node) -> bool:
    return op_name(node) == CAT or picked_from(node) is not None


def _argument(node: fx.Node, position: int) -> Any:
    return node.args[position]


def _pads_zero(node: fx.Node) -> bool:
    """Whether `pad(x, pad, mode, value)` or `constant_pad_nd(x, pad, value)` fills with 0.0."""
    rest = [value for value in (*node.args[2:], *node.kwargs.values()) if value is not None]
    return all(value in (0, "constant") for value in rest)


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    first = value[0] if isinstance(value, tuple | list) and value else value
    return first.dim() if isinstance(first, torch.Tensor) else -1
