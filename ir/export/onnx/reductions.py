"""Reductions, and operators that order elements."""

import math
from typing import Any

import torch
from torch import fx

from effc.ir.export.onnx.graph import Graph, RefusedError
from effc.ir.export.onnx.rules import Arguments, Rule, dtype_of, operand, rank_of


def axes_of(given: Arguments, rank: int) -> list[int]:
    """The dimensions to reduce; all where none are named."""
    dims = given.get("dim")
    if dims is None or dims == []:
        return list(range(rank))
    return [dim % max(rank, 1) for dim in (dims if isinstance(dims, list | tuple) else [dims])]


def _reduced(kind: str) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        x = given["self"]
        value = operand(graph, x, dtype_of(node))
        axes = axes_of(given, rank_of(x))
        return graph.reduced(kind, value, axes, bool(given.get("keepdim"))) if axes else value

    return rule


def _logical(kind: str) -> Rule:
    """`any` and `all` as the largest and smallest of 0 and 1."""

    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        x = given["self"]
        truth = graph.cast(operand(graph, x, torch.bool), torch.int32)
        axes = axes_of(given, rank_of(x))
        found = graph.reduced(kind, truth, axes, bool(given.get("keepdim"))) if axes else truth
        return graph.cast(found, torch.bool)

    return rule


def _place(kind: str) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> str:
        x, dim = given["self"], given["dim"]
        value = graph.value(x)
        if dim is None:
            flat = graph.op("Reshape", value, graph.ints([-1]))
            return graph.op(kind, flat, axis=0, keepdims=0)
        keep = int(bool(given["keepdim"]))
        return graph.op(kind, value, axis=dim % max(rank_of(x), 1), keepdims=keep)

    return rule


def _with_place(kind: str, place: str) -> Rule:
    """The extreme along a dimension, and where it is."""

    def rule(graph: Graph, node: fx.Node, given: Arguments) -> tuple[str, ...]:
        x = given["self"]
        axis, keep = given["dim"] % max(rank_of(x), 1), bool(given["keepdim"])
        value = graph.value(x)
        found = graph.reduced(kind, value, [axis], keep)
        return found, graph.op(place, value, axis=axis, keepdims=int(keep))

    return rule


def variance(graph: Graph, x: str, axes: list[int], keep: bool, factor: str | None) -> list[str]:
    """Variance and mean of float values; `factor` corrects the mean of the squares."""
    mean = graph.reduced("ReduceMean", x, axes, True)
    centred = graph.op("Sub", x, mean)
    found = graph.reduced("ReduceMean", graph.op("Mul", centred, centred), axes, keep)
    found = found if factor is None else graph.op("Mul", found, factor)
    return [found, mean if keep else graph.op("Squeeze", mean, graph.ints(axes))]


def _variance(is_root: bool = False, with_mean: bool = False) -> Rule:
    def rule(graph: Graph, node: fx.Node, given: Arguments) -> Any:
        x = given["self"]
        axes, keep = axes_of(given, rank_of(x)), bool(given.get("keepdim"))
        correction = given.get("correction")
        if correction is None:
            correction = int(given.get("unbiased", True))
        count: Any = 1
        for axis in axes:
            count = count * graph.shape_of(x)[axis]
        factor = None
        if correction:
            if not isinstance(count, int):
                raise RefusedError("a corrected variance of a symbolic size has no form here")
            rest = count - correction
            factor = graph.constant(count / rest if rest > 0 else math.inf, dtype_of(x))
        found, mean = variance(graph, graph.value(x), axes, keep, factor)
        found = graph.op("Sqrt", found) if is_root else found
        return (found, mean) if with_mean else found

    return rule


def _norm(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given.get("self")
    power = given.get("ord", given.get("p", 2))
    kind = {1: "ReduceL1", 2: "ReduceL2", None: "ReduceL2"}.get(power)
    if kind is None:
        raise RefusedError(f"a norm of power {power} has no form here")
    assert isinstance(x, fx.Node)
    value = operand(graph, x, dtype_of(node))
    return graph.reduced(kind, value, axes_of(given, rank_of(x)), bool(given["keepdim"]))


def _summed_up(graph: Graph, node: fx.Node, given: Arguments) -> str:
    x = given["self"]
    axis = graph.constant(given["dim"] % max(rank_of(x), 1), torch.int64)
    return graph.op("CumSum", operand(graph, x, dtype_of(node)), axis)


def _top(graph: Graph, node: fx.Node, given: Arguments) -> tuple[str, ...]:
    x = given["self"]
    axis, count = given["dim"] % max(rank_of(x), 1), given["k"]
    flags = {"largest": int(given["largest"]), "sorted": int(given["sorted"])}
    inputs = [graph.value(x), graph.sizes([count])]
    return graph.several("TopK", inputs, 2, axis=axis, **flags)


def _sorted(graph: Graph, node: fx.Node, given: Arguments) -> Any:
    x = given["self"]
    axis = given["dim"] % max(rank_of(x), 1)
    inputs = [graph.value(x), graph.sizes([graph.shape_of(x)[axis]])]
    flags = {"largest": int(bool(given["descending"])), "sorted": 1}
    found = graph.several("TopK", inputs, 2, axis=axis, **flags)
    return found if isinstance(node.meta["val"], tuple | list) else found[1]


TABLE: dict[str, Rule] = {
    "aten.sum.default": _reduced("ReduceSum"),
    "aten.sum.dim_IntList": _reduced("ReduceSum"),
    "aten.mean.default": _reduced("ReduceMean"),
    "aten.mean.dim": _reduced("ReduceMean"),
    "aten.amax.default": _reduced("ReduceMax"),
    "aten.amin.default": _reduced("ReduceMin"),
    "aten.max.default": _reduced("ReduceMax"),
    "aten.min.default": _reduced("ReduceMin"),
    "aten.prod.default": _reduced("ReduceProd"),
    "aten.prod.dim_int": _reduced("ReduceProd"),
    "aten.logsumexp.default": _reduced("ReduceLogSumExp"),
    "aten.any.default": _logical("ReduceMax"),
    "aten.any.dim": _logical("ReduceMax"),
    "aten.all.default": _logical("ReduceMin"),
    "aten.all.dim": _logical("ReduceMin"),
    "aten.argmax.default": _place("ArgMax"),
    "aten.argmin.default": _place("ArgMin"),
    "aten.max.dim": _with_place("ReduceMax", "ArgMax"),
    "aten.min.dim": _with_place("ReduceMin", "ArgMin"),
    "aten.var.correction": _variance(),
    "aten.var.dim": _variance(),
    "aten.std.correction": _variance(is_root=True),
    "aten.std.dim": _variance(is_root=True),
    "aten.var_mean.correction": _variance(with_mean=True),
    "aten.var_mean.dim": _variance(with_mean=True),
    "aten.linalg_vector_norm.default": _norm,
    "aten.norm.ScalarOpt_dim": _norm,
    "aten.cumsum.default": _summed_up,
    "aten.topk.default": _top,
    "aten.sort.default": _sorted,
    "aten.sort.stable": _sorted,
    "aten.argsort.default": _sorted,
}
