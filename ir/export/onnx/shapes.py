"""Operators that show the same elements under another shape, and parts of a tensor."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from effc.ir.export.onnx.graph import Graph, RefusedError
from effc.ir.export.onnx.rules import Arguments, Rule, dtype_of, rank_of

LAST = torch.iinfo(torch.int64).max


def _reshaped(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """Any view in the order of the elements: the result's own shape says it all."""
    x = next(iter(given.values()))
    return reshape_to(graph, graph.value(x), graph.shape_of(x), graph.shape_of(node))


def reshape_to(graph: Graph, value: str, old: list[Any], new: list[Any]) -> str:
    """Reshape, with sizes that stay where they are copied instead of computed."""
    if old == new:
        return value
    symbolic = [place for place, size in enumerate(new) if not isinstance(size, int)]
    if 0 in new or len(symbolic) <= 1:
        return graph.reshaped(value, new)
    kept = [place for place in symbolic if place < len(old) and old[place] == new[place]]
    rest = [place for place in symbolic if place not in kept]
    if len(rest) > 1:
        return graph.reshaped(value, new)
    sizes = [
        0 if place in kept else -1 if place in rest else new[place] for place in range(len(new))
    ]
    return graph.op("Reshape", value, graph.ints(sizes))


def transposed(graph: Graph, value: str, order: Sequence[int]) -> str:
    """Dimensions in another order."""
    if list(order) == sorted(order):
        return value
    return graph.op("Transpose", value, perm=list(order))


def _permuted(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given["self"]
    return transposed(graph, graph.value(x), [dim % rank_of(x) for dim in given["dims"]])


def swapped(rank: int, first: int, second: int) -> list[int]:
    """The order of dimensions with two of them swapped."""
    order = list(range(rank))
    if rank:
        order[first % rank], order[second % rank] = order[second % rank], order[first % rank]
    return order


def _transpose(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given["self"]
    dims = (given.get("dim0", 0), given.get("dim1", 1)) if rank_of(x) > 1 else (0, 0)
    return transposed(graph, graph.value(x), swapped(rank_of(x), *dims))


def moved(rank: int, source: Any, destination: Any) -> list[int]:
    """The order of dimensions after `movedim`."""
    pairs = [
        [one % rank for one in (part if isinstance(part, list | tuple) else [part])]
        for part in (source, destination)
    ]
    rest = iter(dim for dim in range(rank) if dim not in pairs[0])
    places = dict(zip(pairs[1], pairs[0], strict=True))
    return [places[place] if place in places else next(rest) for place in range(rank)]


def _moved(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given["self"]
    order = moved(rank_of(x), given["source"], given["destination"])
    return transposed(graph, graph.value(x), order)


def unsqueezed(graph: Graph, value: str, axes: Sequence[int]) -> str:
    """New dimensions of size 1 at places of the result."""
    return graph.op("Unsqueeze", value, graph.ints(axes))


def _unsqueezed(graph: Graph, node: fx.Node, given: Arguments) -> str:
    return unsqueezed(graph, graph.value(given["self"]), [given["dim"] % rank_of(node)])


def _squeezed(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given["self"]
    shape = graph.shape_of(x)
    wanted = given.get("dim", list(range(len(shape))))
    dims = [one % len(shape) for one in (wanted if isinstance(wanted, list | tuple) else [wanted])]
    axes = [dim for dim in dims if shape[dim] == 1]
    return graph.op("Squeeze", graph.value(x), graph.ints(axes)) if axes else graph.value(x)


def _expanded(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given["self"]
    if graph.shape_of(x) == graph.shape_of(node):
        return graph.value(x)
    return graph.op("Expand", graph.value(x), graph.sizes(node.meta["val"].shape))


def sliced(graph: Graph, value: str, axis: int, start: Any, end: Any, step: int = 1) -> str:
    """Part of a dimension; positions may be sizes."""
    bounds = [graph.sizes([bound]) for bound in (start, end)]
    return graph.op("Slice", value, *bounds, graph.ints([axis]), graph.ints([step]))


def _sliced(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given["self"]
    start, end = given["start"], given["end"]
    step = given["step"]
    if graph.shape_of(x) == graph.shape_of(node) and step == 1:
        return graph.value(x)
    bounds = (0 if start is None else start, LAST if end is None else end)
    return sliced(graph, graph.value(x), given["dim"] % rank_of(x), *bounds, step)


def _narrowed(graph: Graph, node: fx.Node, given: Arguments) -> str:
    start, length = (graph.known_size(given[name]) for name in ("start", "length"))
    x = given["self"]
    return sliced(graph, graph.value(x), given["dim"] % rank_of(x), start, start + length)


def _selected(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x, index = given["self"], given["index"]
    return graph.op("Gather", graph.value(x), graph.size(index), axis=given["dim"] % rank_of(x))


def _split(graph: Graph, node: fx.Node, given: Arguments) -> tuple[str, ...]:
    x = given["self"]
    axis = given["dim"] % rank_of(x)
    parts = [graph.known_size(value.shape[axis]) for value in node.meta["val"]]
    if len(parts) == 1:
        return (graph.value(x),)
    return graph.several("Split", [graph.value(x), graph.sizes(parts)], len(parts), axis=axis)


def _unbound(graph: Graph, node: fx.Node, given: Arguments) -> tuple[str, ...]:
    x = given["self"]
    axis, count = given["dim"] % rank_of(x), len(node.meta["val"])
    return tuple(
        graph.op("Gather", graph.value(x), graph.constant(place, torch.int64), axis=axis)
        for place in range(count)
    )


def _same_bits(graph: Graph, node: fx.Node, given: Arguments) -> str:
    if dtype_of(given["self"]) != dtype_of(node):
        raise RefusedError("the same bits under another type have no form in ONNX")
    return graph.value(given["self"])


def _unfolded(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """Windows along a dimension, gathered by their places; the window comes last."""
    x = given["self"]
    rank, axis = rank_of(x), given["dimension"] % rank_of(x)
    count = graph.shape_of(node)[axis]
    if not isinstance(count, int):
        raise RefusedError("windows of a symbolic dimension have no form in ONNX")
    starts = torch.arange(count).unsqueeze(1) * given["step"]
    found = graph.op(
        "Gather", graph.value(x), graph.constant(starts + torch.arange(given["size"])), axis=axis
    )
    return transposed(graph, found, moved(rank + 1, axis + 1, rank))


def _diagonal(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """Both dimensions become one, of which every so manieth element counts."""
    x = given["self"]
    rank, shape = rank_of(x), graph.shape_of(x)
    first, second = given["dim1"] % rank, given["dim2"] % rank
    rows, columns = shape[first], shape[second]
    length = graph.shape_of(node)[-1]
    if not all(isinstance(size, int) for size in (rows, columns, length)):
        raise RefusedError("the diagonal of symbolic dimensions has no form in ONNX")
    offset = given["offset"]
    start = offset if offset >= 0 else -offset * columns
    last = transposed(graph, graph.value(x), moved(rank, [first, second], [rank - 2, rank - 1]))
    rest = [shape[place] for place in range(rank) if place not in (first, second)]
    flat = graph.reshaped(last, [*rest, rows * columns])
    places = start + torch.arange(length) * (columns + 1)
    return graph.op("Gather", flat, graph.constant(places), axis=rank - 2)


VIEWS = (
    "view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints",
    "unflatten.int", "view_as.default",
)  # fmt: skip
TABLE: dict[str, Rule] = {
    **{f"aten.{name}": _reshaped for name in VIEWS},
    "aten.permute.default": _permuted,
    "aten.transpose.int": _transpose,
    "aten.t.default": _transpose,
    "aten.movedim.int": _moved,
    "aten.unsqueeze.default": _unsqueezed,
    "aten.squeeze.default": _squeezed,
    "aten.squeeze.dim": _squeezed,
    "aten.squeeze.dims": _squeezed,
    "aten.expand.default": _expanded,
    "aten.expand_as.default": _expanded,
    "aten.slice.Tensor": _sliced,
    "aten.narrow.default": _narrowed,
    "aten.select.int": _selected,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.chunk.default": _split,
    "aten.unbind.int": _unbound,
    "aten.view.dtype": _same_bits,
    "aten.unfold.default": _unfolded,
    "aten.diagonal.default": _diagonal,
}
