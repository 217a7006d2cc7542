"""Pooling."""

from typing import Any

import torch
from torch import fx

from effc.ir.export.onnx.graph import Graph, RefusedError
from effc.ir.export.onnx.rules import Arguments, Rule, dtype_of, rank_of
from effc.ir.export.onnx.shapes import transposed, unsqueezed


def listed(value: Any, count: int) -> list[Any]:
    """One number per spatial dimension."""
    found = list(value) if isinstance(value, list | tuple) else [value]
    return found * count if len(found) == 1 else found


def batched(graph: Graph, x: fx.Node, count: int) -> tuple[str, bool]:
    """A value with a batch in front, and whether that was added."""
    is_single = rank_of(x) == count + 1
    return unsqueezed(graph, graph.value(x), [0]) if is_single else graph.value(x), is_single


def unbatched(graph: Graph, value: str, is_single: bool) -> str:
    """A result without the batch that was added."""
    return graph.op("Squeeze", value, graph.ints([0])) if is_single else value


def _windows(given: Arguments, count: int) -> dict[str, Any]:
    kernel = listed(given["kernel_size"], count)
    stride = given.get("stride") or kernel
    pads = listed(given.get("padding", 0), count)
    return {
        "kernel_shape": kernel,
        "strides": listed(stride, count),
        "pads": [*pads, *pads],
        "ceil_mode": int(bool(given.get("ceil_mode"))) or None,
    }


def _largest(count: int) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        x, is_single = batched(graph, given["self"], count)
        dilations = listed(given["dilation"], count)
        found = graph.op("MaxPool", x, dilations=dilations, **_windows(given, count))
        return unbatched(graph, found, is_single)

    return rule


def _largest_with_places(graph: Graph, node: fx.Node, given: Arguments) -> tuple[str, ...]:
    """Where the largest elements are counts per channel in torch, over all channels in ONNX."""
    if any(user.args[1] != 0 for user in node.users):
        raise RefusedError("places of the largest elements have no form here")
    return (_largest(2)(graph, node, given),)


def _mean(count: int) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        if given.get("divisor_override") is not None:
            raise RefusedError("a divisor of its own has no form in ONNX")
        x, is_single = batched(graph, given["self"], count)
        settings = _windows(given, count)
        if settings["ceil_mode"] and any(settings["pads"]):
            raise RefusedError("padded windows that reach over the end mean something else in ONNX")
        includes = int(bool(given["count_include_pad"]))
        found = graph.op("AveragePool", x, count_include_pad=includes, **settings)
        return unbatched(graph, found, is_single)

    return rule


def _adaptive(count: int) -> Rule:
    """Means of windows: whole images, windows of equal size, or products with a matrix of means."""

    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        x, is_single = batched(graph, given["self"], count)
        wanted = [graph.known_size(size) for size in listed(given["output_size"], count)]
        if all(size == 1 for size in wanted):
            return unbatched(graph, graph.op("GlobalAveragePool", x), is_single)
        sizes = graph.shape_of(given["self"])[-count:]
        if not all(isinstance(size, int) for size in (*sizes, *wanted)):
            raise RefusedError("pooling to a size needs sizes known in advance")
        if all(int(one) % int(out) == 0 for one, out in zip(sizes, wanted, strict=True)):
            kernel = [int(one) // int(out) for one, out in zip(sizes, wanted, strict=True)]
            found = graph.op("AveragePool", x, kernel_shape=kernel, strides=kernel)
            return unbatched(graph, found, is_single)
        columns = means(int(sizes[-1]), int(wanted[-1]), dtype_of(node))
        found = graph.op("MatMul", x, graph.constant(columns))
        if count == 2:
            rows = means(int(sizes[0]), int(wanted[0]), dtype_of(node))
            found = transposed(graph, found, [0, 1, 3, 2])
            found = transposed(graph, graph.op("MatMul", found, graph.constant(rows)), [0, 1, 3, 2])
        return unbatched(graph, found, is_single)

    return rule


def means(size: int, wanted: int, dtype: torch.dtype) -> torch.Tensor:
    """[size, wanted]: how much each element counts in each window of an adaptive pooling."""
    found = torch.zeros(size, wanted, dtype=dtype)
    for place in range(wanted):
        start, end = place * size // wanted, -(-(place + 1) * size // wanted)
        found[start:end, place] = 1 / (end - start)
    return found


TABLE: dict[str, Rule] = {
    "aten.max_pool1d.default": _largest(1),
    "aten.max_pool2d.default": _largest(2),
    "aten.max_pool3d.default": _largest(3),
    "aten.max_pool2d_with_indices.default": _largest_with_places,
    "aten.avg_pool1d.default": _mean(1),
    "aten.avg_pool2d.default": _mean(2),
    "aten.avg_pool3d.default": _mean(3),
    "aten.adaptive_avg_pool1d.default": _adaptive(1),
    "aten.adaptive_avg_pool2d.default": _adaptive(2),
    "aten._adaptive_avg_pool2d.default": _adaptive(2),
}
