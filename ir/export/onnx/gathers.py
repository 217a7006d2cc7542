"""Operators that pick elements by index, join tensors, pad, and resize images."""

from typing import Any

import torch
from torch import fx

from effc.ir.export.onnx.graph import Graph, RefusedError
from effc.ir.export.onnx.rules import Arguments, Rule, dtype_of, is_tensor, operand, rank_of
from effc.ir.export.onnx.shapes import LAST, moved, sliced, transposed, unsqueezed

SMALLEST = torch.iinfo(torch.int64).min


def indices(graph: Graph, value: fx.Node) -> str:
    """Numbers of elements in a type that ONNX takes."""
    known = dtype_of(value) in (torch.int32, torch.int64)
    return graph.value(value) if known else graph.cast(graph.value(value), torch.int64)


def _joined(graph: Graph, node: fx.Node, given: Arguments) -> str:
    parts = [x for x in given["tensors"] if graph.shape_of(x) != [0]]
    names = [operand(graph, x, dtype_of(node)) for x in parts]
    return graph.op("Concat", *names, axis=given["dim"] % rank_of(node))


def _stacked(graph: Graph, node: fx.Node, given: Arguments) -> str:
    axis = given["dim"] % rank_of(node)
    names = [operand(graph, x, dtype_of(node)) for x in given["tensors"]]
    return graph.op("Concat", *(unsqueezed(graph, name, [axis]) for name in names), axis=axis)


def _padded(graph: Graph, node: fx.Node, given: Arguments) -> str:
    value = graph.constant(given.get("value") or 0, dtype_of(node))
    return _pad(graph, given["self"], list(given["pad"]), "constant", value)


def _pad(graph: Graph, x: fx.Node, widths: list[Any], mode: str, *value: str) -> str:
    """PyTorch counts from the last dimension; ONNX wants all starts, then all ends."""
    rank = rank_of(x)
    widths = widths + [0] * (2 * rank - len(widths))
    starts = [widths[2 * (rank - 1 - axis)] for axis in range(rank)]
    ends = [widths[2 * (rank - 1 - axis) + 1] for axis in range(rank)]
    return graph.op("Pad", graph.value(x), graph.sizes([*starts, *ends]), *value, mode=mode)


def _mirrored(mode: str) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        return _pad(graph, given["self"], list(given["padding"]), mode)

    return rule


def _general_pad(graph: Graph, node: fx.Node, given: Arguments) -> str:
    mode = {"reflect": "reflect", "replicate": "edge", "constant": "constant"}.get(given["mode"])
    if mode is None:
        raise RefusedError(f"padding with {given['mode']} has no form in ONNX")
    value = [graph.constant(given["value"] or 0, dtype_of(node))] if mode == "constant" else []
    return _pad(graph, given["self"], list(given["pad"]), mode, *value)


def _looked_up(graph: Graph, node: fx.Node, given: Arguments) -> str:
    return graph.op(
        "Gather", graph.value(given["weight"]), indices(graph, given["indices"]), axis=0
    )


def _index_selected(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x, index = given["self"], given["index"]
    rows = indices(graph, index)
    rows = unsqueezed(graph, rows, [0]) if rank_of(index) == 0 else rows
    return graph.op("Gather", graph.value(x), rows, axis=given["dim"] % max(rank_of(x), 1))


def _gathered(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x, index = given["self"], given["index"]
    names = graph.value(x), indices(graph, index)
    return graph.op("GatherElements", *names, axis=given["dim"] % max(rank_of(x), 1))


def _indexed(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """`x[:, i, j]`: the indexed dimensions come first, and their result goes back in place."""
    x, chosen = given["self"], list(given["indices"])
    dims = [dim for dim, index in enumerate(chosen) if index is not None]
    parts = [chosen[dim] for dim in dims]
    if any(dtype_of(part) == torch.bool for part in parts):
        raise RefusedError("the size of its result depends on values")
    if len(dims) == 1:
        return graph.op("Gather", graph.value(x), indices(graph, parts[0]), axis=dims[0])
    rank, count = rank_of(x), len(dims)
    first = transposed(graph, graph.value(x), moved(rank, dims, list(range(count))))
    deep = max(rank_of(part) for part in parts)
    shapes = [part.meta["val"].shape for part in parts]
    shape = list(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
    whole = graph.sizes(shape)
    tuples = [
        unsqueezed(graph, graph.op("Expand", operand(graph, part, torch.int64), whole), [deep])
        for part in parts
    ]
    found = graph.op("GatherND", first, graph.op("Concat", *tuples, axis=deep))
    is_together = dims == list(range(dims[0], dims[0] + count))
    if not is_together or dims[0] == 0:
        return found
    total = rank - count + deep
    order = moved(total, list(range(deep)), list(range(dims[0], dims[0] + deep)))
    return transposed(graph, found, order)


def _flipped(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given["self"]
    axes = [dim % rank_of(x) for dim in given["dims"]]
    ends = [graph.ints([bound] * len(axes)) for bound in (-1, SMALLEST)]
    steps = graph.ints([-1] * len(axes))
    return graph.op("Slice", graph.value(x), *ends, graph.ints(axes), steps) if axes else (
        graph.value(x)
    )  # fmt: skip


def _tiled(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given["self"]
    times = list(given["repeats"] if "repeats" in given else given["dims"])
    missing = len(times) - rank_of(x)
    value = unsqueezed(graph, graph.value(x), list(range(missing))) if missing > 0 else (
        graph.value(x)
    )  # fmt: skip
    times = [1] * max(-missing, 0) + times
    return graph.op("Tile", value, graph.sizes(times))


def repeated(graph: Graph, value: str, shape: list[Any], axis: int, times: int) -> str:
    """Every slice of an axis several times in a row; `shape` is that of the result."""
    rank = len(shape)
    wide = unsqueezed(graph, value, [axis + 1])
    ones = graph.ints([times if place == axis + 1 else 1 for place in range(rank + 1)])
    return graph.reshaped(graph.op("Expand", wide, ones), shape)


def _repeat_interleaved(graph: Graph, node: fx.Node, given: Arguments) -> str:
    times, dim = given["repeats"], given["dim"]
    if not isinstance(times, int) or dim is None:
        raise RefusedError("repeats that are not one number have no form in ONNX")
    x = given["self"]
    return repeated(graph, graph.value(x), graph.shape_of(node), dim % rank_of(x), times)


def _rolled(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given["self"]
    result, dims = graph.value(x), [dim % rank_of(x) for dim in given["dims"]]
    if not dims:
        raise RefusedError("rolling a flattened tensor has no form here")
    for shift, dim in zip(given["shifts"], dims, strict=True):
        if shift:
            tail = sliced(graph, result, dim, -shift, LAST)
            head = sliced(graph, result, dim, 0, -shift)
            result = graph.op("Concat", tail, head, axis=dim)
    return result


def _triangle(upper: int) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        graph.need(14)
        dtype = dtype_of(node)
        wide = torch.int64 if not dtype.is_floating_point else dtype
        offset = graph.constant(given["diagonal"], torch.int64)
        found = graph.op("Trilu", operand(graph, given["self"], wide), offset, upper=upper)
        return found if wide == dtype else graph.cast(found, dtype)

    return rule


def _resized(mode: str) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        aligned = bool(given.get("align_corners", False))
        given_scales = given.get("scale_factors") or given.get("scales_h")
        settings: dict[str, Any] = {"mode": mode}
        if mode == "nearest":
            settings |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        else:
            where = "align_corners" if aligned else "half_pixel"
            settings["coordinate_transformation_mode"] = where
        x = given.get("input", given.get("self"))
        sizes = node.meta["val"].shape
        if given_scales and not _is_whole(given_scales):
            factors = [1.0, 1.0, *given["scale_factors"]]
            return graph.op("Resize", graph.value(x), "", graph.constant(factors), **settings)
        return graph.op("Resize", graph.value(x), "", "", graph.sizes(sizes), **settings)

    return rule


def _is_whole(factors: Any) -> bool:
    """Whether sizes say the same as factors."""
    return all(float(one).is_integer() for one in (factors if isinstance(factors, list) else []))


def _shuffled(graph: Graph, node: fx.Node, given: Arguments) -> str:
    block = given["upscale_factor"]
    return graph.op("DepthToSpace", graph.value(given["self"]), blocksize=block, mode="CRD")


def _unshuffled(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x, block = given["self"], given["downscale_factor"]
    batch, channels, height, width = graph.shape_of(node)
    inner = [batch, graph.shape_of(x)[1], height, block, width, block]
    split = transposed(graph, graph.reshaped(graph.value(x), inner), [0, 1, 3, 5, 2, 4])
    return graph.reshaped(split, [batch, channels, height, width])


def _channels_shuffled(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x, groups = given["self"], given["groups"]
    shape = graph.shape_of(x)
    split = [shape[0], groups, shape[1] // groups, *shape[2:]]
    order = swapped_groups(len(split))
    return graph.reshaped(transposed(graph, graph.reshaped(graph.value(x), split), order), shape)


def swapped_groups(rank: int) -> list[int]:
    """Groups and channels of a group swapped."""
    return [0, 2, 1, *range(3, rank)]


def _scattered(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x, index = given["self"], given["index"]
    dtype = dtype_of(node)
    if "reduce" in given:
        raise RefusedError("writing by index with a reduction has no form here")
    value = given.get("src", given.get("value"))
    update = operand(graph, value, dtype)
    if not is_tensor(value):
        update = graph.op("Expand", update, graph.sizes(index.meta["val"].shape))
    names = graph.value(x), indices(graph, index), update
    return graph.op("ScatterElements", *names, axis=given["dim"] % rank_of(x))


def _part_replaced(graph: Graph, node: fx.Node, given: Arguments) -> str:
    """A slice of a dimension replaced, by joining what is before and behind it."""
    x, source = given["self"], given["src"]
    axis = given["dim"] % rank_of(x)
    if "index" in given:
        start = given["index"] % graph.shape_of(x)[axis]
        end, middle = start + 1, unsqueezed(graph, graph.value(source), [axis])
    else:
        start, end = given["start"] or 0, given["end"]
        end, middle = LAST if end is None else end, graph.value(source)
        if given["step"] != 1:
            raise RefusedError("writing every so manieth element has no form here")
    head = sliced(graph, graph.value(x), axis, 0, start)
    return graph.op(
        "Concat", head, middle, sliced(graph, graph.value(x), axis, end, LAST), axis=axis
    )


TABLE: dict[str, Rule] = {
    "aten.cat.default": _joined,
    "aten.stack.default": _stacked,
    "aten.constant_pad_nd.default": _padded,
    "aten.pad.default": _general_pad,
    "aten.reflection_pad1d.default": _mirrored("reflect"),
    "aten.reflection_pad2d.default": _mirrored("reflect"),
    "aten.replication_pad2d.default": _mirrored("edge"),
    "aten.embedding.default": _looked_up,
    "aten.index_select.default": _index_selected,
    "aten.gather.default": _gathered,
    "aten.index.Tensor": _indexed,
    "aten._unsafe_index.Tensor": _indexed,
    "aten.flip.default": _flipped,
    "aten.repeat.default": _tiled,
    "aten.tile.default": _tiled,
    "aten.repeat_interleave.self_int": _repeat_interleaved,
    "aten.roll.default": _rolled,
    "aten.tril.default": _triangle(0),
    "aten.triu.default": _triangle(1),
    "aten.upsample_nearest2d.vec": _resized("nearest"),
    "aten.upsample_nearest2d.default": _resized("nearest"),
    "aten.upsample_bilinear2d.vec": _resized("linear"),
    "aten.upsample_bilinear2d.default": _resized("linear"),
    "aten.pixel_shuffle.default": _shuffled,
    "aten.pixel_unshuffle.default": _unshuffled,
    "aten.channel_shuffle.default": _channels_shuffled,
    "aten.scatter.src": _scattered,
    "aten.scatter.value": _scattered,
    "aten.slice_scatter.default": _part_replaced,
    "aten.select_scatter.default": _part_replaced,
}
